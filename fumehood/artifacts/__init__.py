"""Content-addressed blobs behind one port."""
