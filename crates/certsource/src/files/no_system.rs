//! In place of the system's store, where the feature `system-roots` is off: a type that has no value, so that the rest
//! reads the same with the feature and without it.

use std::path::PathBuf;

use crate::clock::Now;
use crate::error::Error;
use crate::fs::Fs;
use crate::origin::Origin;
use crate::parts::{FoundCertificate, Warning};
use crate::source::Look;

pub(super) enum Store {}

impl Store {
    pub(super) fn origin(&self) -> Origin {
        match *self {}
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        match *self {}
    }

    pub(super) fn look(&mut self, _: &dyn Fs, _: Now) -> Result<Look, Error> {
        match *self {}
    }

    pub(super) fn read(&self, _: &mut Vec<Warning>) -> Result<Vec<FoundCertificate>, Error> {
        match *self {}
    }
}
