//! Writers that change a single path, one function each.
