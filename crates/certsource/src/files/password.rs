//! The password of an encrypted private key: asked for when a key needs it, used once, wiped.
//!
//! What is not here: decryption ([`crate::PrivateKey`]).

#[cfg(feature = "encrypted-keys")]
use std::error::Error as StdError;

#[cfg(feature = "encrypted-keys")]
use zeroize::Zeroizing;

use crate::error::{Error, Reason};
use crate::key::PrivateKey;
#[cfg(feature = "encrypted-keys")]
use crate::text::Escaped;

/// Where the password comes from.
#[derive(Default)]
pub(super) enum Password {
    /// From nowhere: an encrypted key is an error.
    #[default]
    None,
    #[cfg(feature = "encrypted-keys")]
    Asked(Ask),
}

/// What a user's closure may fail with: anything that `?` can make.
#[cfg(feature = "encrypted-keys")]
pub(super) type Failure = Box<dyn StdError + Send + Sync>;

#[cfg(feature = "encrypted-keys")]
type Ask = Box<dyn FnMut() -> Result<Zeroizing<Vec<u8>>, Failure> + Send>;

impl Password {
    #[cfg(feature = "encrypted-keys")]
    pub(super) fn from<P: Into<Zeroizing<Vec<u8>>>>(
        mut ask: impl FnMut() -> Result<P, Failure> + Send + 'static,
    ) -> Self {
        Self::Asked(Box::new(move || ask().map(Into::into)))
    }

    /// Decrypts an encrypted PKCS#8 key.
    pub(super) fn decrypt(&mut self, der: &[u8]) -> Result<PrivateKey, Error> {
        match self {
            Self::None => {
                let _ = der;
                let message = "the private key is encrypted, and there is no password for it; decrypt it with \
                               `openssl pkey -in FILE -out NEW`";
                Err(Error::new(Reason::Encrypted, message))
            }
            #[cfg(feature = "encrypted-keys")]
            Self::Asked(ask) => PrivateKey::from_encrypted_der(der, &ask().map_err(no_password)?),
        }
    }
}

#[cfg(feature = "encrypted-keys")]
fn no_password(failure: Failure) -> Error {
    match failure.downcast::<Error>() {
        // It has a reason of its own, and perhaps a path.
        Ok(error) => *error,
        Err(failure) => {
            let why = failure.to_string();
            let message = format!("no password for the private key could be had: {}", Escaped::new(&why));
            Error::new(Reason::Encrypted, message)
        }
    }
}
