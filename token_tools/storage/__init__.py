"""What this server keeps on the machine that it runs on."""
