//! A reqwest client that follows certificate rotation: no restart, no failed request, nothing withdrawn stays trusted.
