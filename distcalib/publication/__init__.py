"""Publications: finished runs in a folder or an object store, complete and verified behind one pointer."""
