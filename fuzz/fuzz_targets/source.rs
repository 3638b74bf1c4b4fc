//! A whole source over files of any content: it loads or says in one line why not, the same each time, and what was
//! asked for is there.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use certsource::clock::Now;
use certsource::files::Limits;
use certsource::source::{Look, Source as _};
use certsource::{Files, Material};
use certsource_fuzz::layout::{self, Layout};
use certsource_fuzz::memory::MemoryFs;
use certsource_fuzz::{assert_one_line, show};
use libfuzzer_sys::fuzz_target;

const ROOT: &str = "/etc/tls";

fuzz_target!(|input: &[u8]| {
    let Some(layout) = Layout::read(input) else { return };
    let mut files = source(&layout, disk(&layout));
    assert!(matches!(files.look(Now::read()), Ok(Look::Changed(_))));
    let loaded = files.load();
    match &loaded {
        Ok(material) => {
            whole(&layout, material);
            show(material);
        }
        Err(error) => assert_one_line(error),
    }
    // The same again, for some.
    if input.len() % 8 == 0 {
        assert!(files.look(Now::read()).is_ok());
        match (loaded, files.load()) {
            (Ok(once), Ok(again)) => {
                assert_eq!(once.content_id(), again.content_id());
                assert_eq!(once.digest(), again.digest());
                assert_eq!(once.diff(&again), certsource::Diff::default());
            }
            (Err(once), Err(again)) => {
                assert_eq!((once.to_string(), once.reason()), (again.to_string(), again.reason()));
            }
            (once, again) => panic!("{once:?}, then {again:?}"),
        }
    }
});

/// The files, plain or behind `..data`.
fn disk(layout: &Layout<'_>) -> MemoryFs {
    let root = Path::new(ROOT);
    let is_volume = layout.has(layout::VOLUME);
    let below = if is_volume { root.join("..2026_01_01") } else { root.to_owned() };
    let mut fs = MemoryFs::default().with_directory(root);
    if is_volume {
        fs = fs.with_directory(&below);
    }
    for (name, content) in layout::FILES.iter().zip(layout.contents) {
        if let Some(content) = content {
            fs = fs.with_file(below.join(name), content);
        }
    }
    if is_volume {
        fs = fs.with_link(root.join("..data"), "..2026_01_01");
        for name in layout::FILES {
            fs = fs.with_link(root.join(name), Path::new("..data").join(name));
        }
    }
    fs
}

fn source(layout: &Layout<'_>, fs: MemoryFs) -> Files {
    let root = Path::new(ROOT);
    let [ca, chain, key, crl, more] = layout::FILES.map(|name| root.join(name));
    // Nothing yet: the part that is taken back.
    let mut files = Files::trust(&ca).without_trust().filesystem(Arc::new(fs));
    if layout.has(layout::TRUST) {
        files = if layout.has(layout::DIRECTORY) {
            files.with_trust(root)
        } else {
            files.with_trust(ca).and_trust(more)
        };
    }
    if layout.has(layout::COMBINED) {
        files = files.with_combined(&chain);
    } else if layout.has(layout::PAIR) {
        files = files.with_identity(chain, key);
    }
    if layout.has(layout::CRL) {
        files = files.with_crl(crl);
    }
    if layout.has(layout::WITH_PASSWORD) {
        files = files.key_password(|| Ok(layout::PASSWORD.to_vec()));
    }
    if layout.has(layout::LIMITED) {
        let mut limits = Limits::default();
        limits.file_bytes = 4096;
        limits.total_bytes = 6144;
        limits.certificates = 3;
        limits.directory_entries = 6;
        files = files.limits(limits);
    }
    files
}

/// What was asked for is there, and nothing else.
fn whole(layout: &Layout<'_>, material: &Material) {
    let has_identity = layout.has(layout::PAIR) || layout.has(layout::COMBINED);
    assert_eq!(material.trust().is_some(), layout.has(layout::TRUST));
    assert_eq!(material.identity().is_some(), has_identity);
    assert_eq!(material.crls().is_some(), layout.has(layout::CRL));
    assert!(material.trust().is_none_or(|anchors| !anchors.is_empty()));
    assert!(material.crls().is_none_or(|crls| !crls.is_empty()));
    if layout.has(layout::LIMITED) {
        assert!(material.certificates().count() <= 3);
    }
}
