//! Subject alternative names (RFC 5280, section 4.2.1.6).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use x509_parser::extensions::{GeneralName, SubjectAlternativeName};
use x509_parser::prelude::FromDer;

use super::name;
use crate::text::Escaped;

/// One subject alternative name.
///
/// The strings are as the certificate holds them: hostile text, but for [`San::Other`]. Shown with its type, and
/// escaped: `dns:localhost`, `ip:127.0.0.1`, `email:a@example.com`, `uri:spiffe://example.org/a`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum San {
    /// A host name, `*.` in front of it or not.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
    /// An e-mail address.
    Email(String),
    /// A URI, such as a SPIFFE ID.
    Uri(String),
    /// Any other, as it is shown, with its type: `dir:CN=a` (see [`super::Inspection::subject`]), `rid:1.2.3`,
    /// `other:1.2.3`. A name of the types above that cannot be read is here too, with `#` and hex.
    Other(String),
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "dns:{}", Escaped::new(name)),
            Self::Ip(address) => write!(f, "ip:{address}"),
            Self::Email(address) => write!(f, "email:{}", Escaped::new(address)),
            Self::Uri(uri) => write!(f, "uri:{}", Escaped::new(uri)),
            // Of digits, hex and names that are escaped already.
            Self::Other(name) => f.write_str(name),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for San {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The names of an extension's value, in order. `None`: it is broken.
pub(super) fn read(value: &[u8]) -> Option<Vec<San>> {
    let ([], names) = SubjectAlternativeName::from_der(value).ok()? else { return None };
    Some(names.general_names.iter().map(convert).collect())
}

fn convert(name: &GeneralName<'_>) -> San {
    match name {
        GeneralName::DNSName(name) => San::Dns((*name).to_owned()),
        GeneralName::RFC822Name(address) => San::Email((*address).to_owned()),
        GeneralName::URI(uri) => San::Uri((*uri).to_owned()),
        GeneralName::IPAddress(octets) => match (<[u8; 4]>::try_from(*octets), <[u8; 16]>::try_from(*octets))
        {
            (Ok(octets), _) => San::Ip(Ipv4Addr::from(octets).into()),
            (_, Ok(octets)) => San::Ip(Ipv6Addr::from(octets).into()),
            _ => raw("ip", octets),
        },
        GeneralName::DirectoryName(directory) => match name::text(directory.as_raw()) {
            Some(text) => San::Other(format!("dir:{text}")),
            None => raw("dir", directory.as_raw()),
        },
        GeneralName::RegisteredID(oid) => San::Other(format!("rid:{}", oid.to_id_string())),
        GeneralName::OtherName(oid, _) => San::Other(format!("other:{}", oid.to_id_string())),
        GeneralName::X400Address(any) => raw("x400", any.data),
        GeneralName::EDIPartyName(any) => raw("edi", any.data),
        GeneralName::Invalid(tag, content) => {
            let kind = match tag.0 {
                0 => "other",
                1 => "email",
                2 => "dns",
                4 => "dir",
                6 => "uri",
                _ => "unknown",
            };
            raw(kind, content)
        }
    }
}

fn raw(kind: &str, content: &[u8]) -> San {
    let mut text = format!("{kind}:#");
    name::hex(content, &mut text);
    San::Other(text)
}
