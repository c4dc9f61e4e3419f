//! Storage on a real node.

mod local_path;
