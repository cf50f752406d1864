"""How is the server reached over HTTP, and who is let in?"""
