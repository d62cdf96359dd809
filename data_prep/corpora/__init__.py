"""Reading a corpus; its health; its passages and their roles."""
