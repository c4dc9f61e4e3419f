//! What a node serves to others, numbers, logs and streams, and what it takes from registries.

mod devices;
mod images;
mod numbers;
mod streams;
