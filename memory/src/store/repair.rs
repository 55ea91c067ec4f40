//! What can be read of a damaged store, put into a fresh one.
