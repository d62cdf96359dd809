"""Meshes of devices, processes on several hosts, and programs on rows of a mesh."""
