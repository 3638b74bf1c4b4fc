//! [`Closed`]: why what was made from a generation must not be used, although nothing newer is there.

use std::fmt;

use certsource::Error;
use certsource::machine::Stale;

/// Why a [`Derived`](crate::Derived) value must not be used: fail, rather than go on with it. It ends by itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Closed {
    /// The source could not be confirmed for too long, and nothing is served: see
    /// [`Policy::max_stale`](certsource::machine::Policy::max_stale).
    Stale(Stale),
    /// A withdrawal was published, and this value could not be built from it.
    Unbuilt(Unbuilt),
}

/// A value could not be built from a generation that withdraws something. What was built before still trusts that, so it must
/// not be used. Building is tried again, soon and then less often.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Unbuilt {
    /// The number of the generation.
    pub generation: u64,
    /// Why.
    pub error: Error,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale(stale) => stale.fmt(f),
            Self::Unbuilt(unbuilt) => unbuilt.fmt(f),
        }
    }
}

impl std::error::Error for Closed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Stale(stale) => Some(stale),
            Self::Unbuilt(unbuilt) => Some(unbuilt),
        }
    }
}

impl fmt::Display for Unbuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "generation {} withdraws certificates, and what was made before still trusts them, so it is not used; making it \
             anew is tried again by itself: {}",
            self.generation, self.error
        )
    }
}

impl std::error::Error for Unbuilt {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<Closed> for Error {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Stale(stale) => stale.into(),
            Closed::Unbuilt(unbuilt) => {
                Self::new(unbuilt.error.reason(), unbuilt.to_string()).caused_by(unbuilt)
            }
        }
    }
}
