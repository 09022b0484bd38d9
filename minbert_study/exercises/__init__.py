"""One module per exercise: its checks, its classic mistakes, its hints."""
