#![doc = include_str!("../README.md")]

pub mod case;
pub mod disk;
pub mod engine;
pub mod explore;
pub mod fs;
pub mod naive;
pub mod subject;
pub mod watches;
pub mod writers;
