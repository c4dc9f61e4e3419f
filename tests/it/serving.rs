//! What a node serves to others: numbers, logs, streams.

mod numbers;
mod streams;
