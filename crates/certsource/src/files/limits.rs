//! What is read at most, and who else may read a private key.

/// Limits on what is read from files. Bytes are counted while reading, so a file that grows, or says a wrong size,
/// is cut off too.
///
/// # Defaults
/// - `file_bytes`: 16 MiB. The largest public CRLs in use are below that; public root bundles are below 1 MiB
/// - `total_bytes`: 64 MiB over all files of a source
/// - `certificates`: 20,000 over all files of a source; public root bundles hold about 150
/// - `directory_entries`: 10,000 names in a directory, whether they are taken or not
///
/// Beyond a limit the error is [`Reason::TooLarge`](crate::Reason::TooLarge).
///
/// # Examples
/// ```
/// use certsource::files::Limits;
///
/// let mut limits = Limits::default();
/// limits.file_bytes = 64 * 1024;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of all files of a source together.
    pub total_bytes: u64,
    /// Certificates of all files of a source together.
    pub certificates: usize,
    /// Names in a directory of anchors.
    pub directory_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 16 * 1024 * 1024,
            total_bytes: 64 * 1024 * 1024,
            certificates: 20_000,
            directory_entries: 10_000,
        }
    }
}

/// What to do about a private key that users other than its owner can read or write (any of the permission bits
/// `0o077`).
///
/// Not asked for keys in a Kubernetes volume: their mode is the volume's, and the pod is the boundary. Nor on systems
/// without permission bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyPermissions {
    /// Load it, with a warning.
    #[default]
    Warn,
    /// Refuse it, with [`Reason::PermissionInsecure`](crate::Reason::PermissionInsecure).
    Require,
    /// Load it and say nothing.
    Ignore,
}
