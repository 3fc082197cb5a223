//! An nginx configuration, read.
