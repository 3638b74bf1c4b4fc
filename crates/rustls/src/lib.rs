//! Generations of TLS material made into fresh rustls configs, with the TLS gate in front.
