"""What lies on disk and what a folder is: manifests, checkpoints, weight shards, folders."""
