//! `inspect --format pem`: certificates and CRLs as PEM, each below a line that says what it is.
//!
//! Private keys are never written.

use pem::{EncodeConfig, LineEnding, Pem};

use super::Shown;
use crate::output::Output;
use crate::scan::{File, What, place};

/// Writes what is shown of a file. Text between PEM sections is no part of them (RFC 7468, section 2).
pub(super) fn write(output: &Output, file: &File, all: bool) -> anyhow::Result<()> {
    let shown = Shown::of(file, all);
    for item in &file.items {
        let place = place(&file.path, item.line);
        match &item.what {
            What::Certificate(found) if shown.shows(found) => {
                let (role, subject) = (found.role(), found.inspection.subject());
                output.text(&format!(
                    "# {role} {subject} until {} ({place})",
                    found.inspection.not_after_text()
                ))?;
                output.raw(section("CERTIFICATE", &found.der).as_bytes())?;
            }
            What::Crl(found) => {
                output.text(&format!("# crl {} ({place})", found.inspection.issuer()))?;
                output.raw(section("X509 CRL", &found.der).as_bytes())?;
            }
            What::Certificate(_) | What::Key(_) | What::Other => {}
        }
    }
    Ok(())
}

fn section(label: &str, der: &[u8]) -> String {
    pem::encode_config(&Pem::new(label, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}
