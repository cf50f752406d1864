"""What can be asked of this server, as steps on the cluster."""
