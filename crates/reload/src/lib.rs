//! The engine that keeps TLS material current: generations, events, gates and derived values on its own threads.
