//! For tests: mint certificates and rotate files the way kubelet, certbot and agents do.
