"""The networks here are too small to share out."""

from one_thread import one_thread as one_thread
