//! Our verifier and stock rustls give the same verdict, with the same error, over generated chains: ends of validity,
//! names, extended key usages, name constraints, path lengths, missing intermediates, revocation lists of every kind.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use certsource_reload::certsource::Origin;
use certsource_reload::certsource::parts::Parts;
use certsource_rustls::rustls::client::WebPkiServerVerifier;
use certsource_rustls::rustls::client::danger::ServerCertVerifier;
use certsource_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, UnixTime,
};
use certsource_rustls::rustls::{CertificateError, Error, RootCertStore};
use certsource_rustls::{ClientTls, CrlExpiry, Revocation, default_provider};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    NameConstraints, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

const DAY: i64 = 86_400;
/// Every chain is judged at this moment, in Unix seconds.
const NOW: i64 = 1_800_000_000;

/// Days around now. The edges are what a comparison could get wrong, and are met often.
#[derive(Clone, Copy, Debug)]
struct Validity(i64, i64);

/// A certificate, but for its keys.
#[derive(Clone, Debug)]
struct Shape {
    validity: Validity,
    is_ca: bool,
    path_length: Option<u8>,
    permitted: Option<&'static str>,
    excluded: Option<&'static str>,
    usages: Vec<ExtendedKeyUsagePurpose>,
    names: Vec<&'static str>,
}

/// The list of one authority.
#[derive(Clone, Debug)]
struct List {
    /// Days from now to its next update.
    next_update: i64,
    revokes: bool,
}

#[derive(Clone, Debug)]
struct Case {
    /// The root, the intermediates, the leaf.
    chain: Vec<Shape>,
    /// The list of each authority of the chain.
    lists: Vec<Option<List>>,
    /// Whether another root is trusted than the chain's.
    is_strange: bool,
    /// The intermediate that the server forgets to send.
    forgotten: Option<usize>,
    name: &'static str,
    end_entity_only: bool,
    deny_unknown: bool,
    /// `None`: lists do not end.
    grace: Option<i64>,
}

/// What was minted for a case.
struct Minted {
    anchor: CertificateDer<'static>,
    sent: Vec<CertificateDer<'static>>,
    /// The lists as they are, and with the grace added to their end.
    lists: Vec<CertificateRevocationListDer<'static>>,
    later: Vec<CertificateRevocationListDer<'static>>,
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

fn params(shape: &Shape, level: usize) -> CertificateParams {
    let mut params =
        CertificateParams::new(shape.names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("level {level}"));
    params.not_before = at(NOW + shape.validity.0 * DAY);
    params.not_after = at(NOW + shape.validity.1 * DAY);
    params.serial_number = Some(SerialNumber::from(level as u64 + 1));
    params.extended_key_usages.clone_from(&shape.usages);
    if shape.is_ca {
        params.is_ca = IsCa::Ca(match shape.path_length {
            Some(most) => BasicConstraints::Constrained(most),
            None => BasicConstraints::Unconstrained,
        });
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let subtree = |name: Option<&str>| name.map(|name| GeneralSubtree::DnsName(name.to_owned()));
        let constraints = NameConstraints {
            permitted_subtrees: subtree(shape.permitted).into_iter().collect(),
            excluded_subtrees: subtree(shape.excluded).into_iter().collect(),
        };
        if shape.permitted.is_some() || shape.excluded.is_some() {
            params.name_constraints = Some(constraints);
        }
    }
    params
}

fn mint(case: &Case) -> Minted {
    let mut signed: Vec<CertificateDer<'static>> = Vec::new();
    let (mut lists, mut later) = (Vec::new(), Vec::new());
    let mut issuer: Option<Issuer<'static, KeyPair>> = None;
    for (level, shape) in case.chain.iter().enumerate() {
        let (params, key) = (params(shape, level), KeyPair::generate().unwrap());
        let certificate = match &issuer {
            None => params.self_signed(&key),
            Some(issuer) => params.signed_by(&key, issuer),
        };
        signed.push(certificate.unwrap().der().clone());
        // What is no CA is made to sign all the same: that it must not is for the verifier to say.
        let mut params = params;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let own = Issuer::new(params, key);
        if let Some(list) = case.lists.get(level).and_then(Option::as_ref) {
            for (into, grace) in [(&mut lists, 0), (&mut later, case.grace.unwrap_or(0))] {
                into.push(sign_list(list, level, grace, &own));
            }
        }
        issuer = Some(own);
    }
    let anchor = if case.is_strange {
        params(&case.chain[0], 99).self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    } else {
        signed[0].clone()
    };
    let mut sent: Vec<_> = signed[1..].iter().rev().cloned().collect();
    if let Some(forgotten) = case.forgotten {
        if forgotten + 1 < sent.len() {
            sent.remove(forgotten + 1);
        }
    }
    Minted { anchor, sent, lists, later }
}

fn sign_list(
    list: &List,
    level: usize,
    grace: i64,
    issuer: &Issuer<'static, KeyPair>,
) -> CertificateRevocationListDer<'static> {
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(level as u64 + 2),
        revocation_time: at(NOW - 2 * DAY),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: at(NOW - 400 * DAY),
        next_update: at(NOW + (list.next_update + grace) * DAY),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: if list.revokes { vec![revoked] } else { Vec::new() },
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().into()
}

type Outcome = Result<(), Error>;

fn judge(verifier: &dyn ServerCertVerifier, case: &Case, minted: &Minted) -> Outcome {
    let name = ServerName::try_from(case.name).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW.unsigned_abs()));
    verifier.verify_server_cert(&minted.sent[0], &minted.sent[1..], &name, &[], now).map(drop)
}

fn ours(case: &Case, minted: &Minted) -> Outcome {
    let origin = Origin::named("test");
    let mut parts = Parts::new().with_trust(&origin, [minted.anchor.clone()]);
    if !minted.lists.is_empty() {
        parts = parts.with_crls(&origin, minted.lists.clone());
    }
    let expiry = match case.grace {
        None => CrlExpiry::Ignored,
        Some(days) => CrlExpiry::Enforced { grace: Duration::from_secs((days * DAY).unsigned_abs()) },
    };
    let revocation = Revocation::new()
        .end_entity_only(case.end_entity_only)
        .deny_unknown(case.deny_unknown)
        .expiry(expiry);
    let material = parts.assemble().whole.unwrap();
    let verifier = ClientTls::new().unwrap().revocation(revocation).verifier(&material).unwrap();
    judge(&*verifier, case, minted)
}

fn stock(case: &Case, minted: &Minted) -> Outcome {
    let mut roots = RootCertStore::empty();
    roots.add(minted.anchor.clone()).unwrap();
    let mut builder =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), default_provider().unwrap());
    if !minted.later.is_empty() {
        builder = builder.with_crls(minted.later.clone());
    }
    if case.end_entity_only {
        builder = builder.only_check_end_entity_revocation();
    }
    if !case.deny_unknown {
        builder = builder.allow_unknown_revocation_status();
    }
    if case.grace.is_some() {
        builder = builder.enforce_revocation_expiration();
    }
    judge(&*builder.build().unwrap(), case, minted)
}

/// As text (rustls says of some errors that they are equal to none), and without what differs on purpose: the oracle's
/// lists end later by the grace, and the error says when.
fn words(outcome: Outcome) -> String {
    let outcome = outcome.map_err(|error| match error {
        Error::InvalidCertificate(CertificateError::ExpiredRevocationListContext { .. }) => {
            Error::InvalidCertificate(CertificateError::ExpiredRevocationList)
        }
        other => other,
    });
    format!("{outcome:?}")
}

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("a.example"), 1 => Just("b.test"), 1 => Just("127.0.0.1")]
}

fn validity() -> impl Strategy<Value = Validity> {
    prop_oneof![
        8 => Just(Validity(-100, 100)),
        1 => Just(Validity(-100, -1)),
        1 => Just(Validity(-100, 0)),
        1 => Just(Validity(0, 100)),
        1 => Just(Validity(1, 100)),
    ]
}

prop_compose! {
    fn authority()(
        validity in validity(),
        is_ca in prop::bool::weighted(0.95),
        path_length in prop_oneof![4 => Just(None), 3 => (0_u8..3).prop_map(Some)],
        permitted in prop_oneof![6 => Just(None), 1 => Just(Some("example")), 1 => Just(Some("b.test"))],
        excluded in prop_oneof![6 => Just(None), 1 => Just(Some("a.example")), 1 => Just(Some("test"))],
        usages in prop_oneof![6 => Just(vec![]), 1 => Just(vec![ExtendedKeyUsagePurpose::ServerAuth]), 1 => Just(vec![ExtendedKeyUsagePurpose::ClientAuth])],
    ) -> Shape {
        Shape { validity, is_ca, path_length, permitted, excluded, usages, names: vec![] }
    }
}

prop_compose! {
    fn leaf()(
        validity in validity(),
        is_ca in prop::bool::weighted(0.05),
        usages in prop_oneof![
            3 => Just(vec![ExtendedKeyUsagePurpose::ServerAuth]),
            3 => Just(vec![]),
            1 => Just(vec![ExtendedKeyUsagePurpose::ClientAuth]),
            1 => Just(vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]),
        ],
        names in prop::collection::vec(prop_oneof![4 => name(), 1 => Just("*.example")], 0..3),
    ) -> Shape {
        Shape { validity, is_ca, path_length: None, permitted: None, excluded: None, usages, names }
    }
}

fn list() -> impl Strategy<Value = Option<List>> {
    let shape = (
        prop_oneof![4 => Just(30_i64), 1 => Just(1), 1 => Just(-1), 1 => Just(-2), 1 => Just(-20)],
        prop::bool::weighted(0.15),
    );
    prop_oneof![1 => Just(None), 1 => shape.prop_map(|(next_update, revokes)| Some(List { next_update, revokes }))]
}

prop_compose! {
    fn case()(
        mut root in authority(),
        middle in prop::collection::vec(authority(), 0..4),
        leaf in leaf(),
        lists in prop::collection::vec(list(), 5),
        is_strange in prop::bool::weighted(0.05),
        forgotten in prop::option::weighted(0.05, 0_usize..3),
        name in name(),
        end_entity_only: bool,
        deny_unknown: bool,
        grace in prop::option::of(prop_oneof![Just(0_i64), Just(1), Just(5)]),
    ) -> Case {
        root.is_ca = true;
        let authorities = middle.len() + 1;
        let chain = std::iter::once(root).chain(middle).chain([leaf]).collect();
        // Only of those that may sign: what another one signs is no list that a source would load.
        let mut lists = lists;
        lists.truncate(authorities);
        Case { chain, lists, is_strange, forgotten, name, end_entity_only, deny_unknown, grace }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_is_that_of_stock_rustls(case in case()) {
        let minted = mint(&case);
        let (ours, stock) = (words(ours(&case, &minted)), words(stock(&case, &minted)));
        // With several things wrong, a list that ended is told by stock rustls before the other, and by us after it.
        let grace_decides = case.grace.is_some_and(|days| days > 0) && stock.contains("ExpiredRevocationList");
        if grace_decides {
            prop_assert!(ours.starts_with("Err"), "{} / {}", ours, stock);
        } else {
            prop_assert_eq!(ours, stock);
        }
    }
}

fn plain() -> Case {
    let authority = Shape {
        validity: Validity(-100, 100),
        is_ca: true,
        path_length: None,
        permitted: None,
        excluded: None,
        usages: vec![],
        names: vec![],
    };
    let leaf = Shape {
        is_ca: false,
        usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        names: vec!["a.example"],
        ..authority.clone()
    };
    Case {
        chain: vec![authority.clone(), authority, leaf],
        lists: vec![None, None],
        is_strange: false,
        forgotten: None,
        name: "a.example",
        end_entity_only: false,
        deny_unknown: false,
        grace: Some(1),
    }
}

type Change = Box<dyn Fn(&mut Case)>;

/// Each kind by itself, with the verdict that it must have: so that a comparison of two that accept everything fails.
#[test]
fn each_kind_is_refused_for_its_reason() {
    let list = |next_update, revokes| Some(List { next_update, revokes });
    let cases: [(&str, &str, Change); 16] = [
        ("nothing wrong", "Ok", Box::new(|_| {})),
        (
            "wrong EKU",
            "InvalidPurpose",
            Box::new(|c| c.chain[2].usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ),
        ("expired", "Expired", Box::new(|c| c.chain[2].validity = Validity(-100, -1))),
        ("an expired intermediate", "Expired", Box::new(|c| c.chain[1].validity = Validity(-100, -1))),
        ("not yet valid", "NotValidYet", Box::new(|c| c.chain[2].validity = Validity(1, 100))),
        ("wrong name", "NotValidForName", Box::new(|c| c.name = "b.test")),
        ("name constraints", "NameConstraintViolation", Box::new(|c| c.chain[1].permitted = Some("b.test"))),
        ("an excluded name", "NameConstraintViolation", Box::new(|c| c.chain[0].excluded = Some("example"))),
        (
            "path length",
            "PathLenConstraintViolated",
            Box::new(|c| {
                // The second of two: what a root says of lengths is looked at by neither.
                c.chain.insert(1, Shape { path_length: Some(0), ..c.chain[1].clone() });
                c.lists.push(None);
            }),
        ),
        ("no CA", "EndEntityUsedAsCa", Box::new(|c| c.chain[1].is_ca = false)),
        ("unknown issuer", "UnknownIssuer", Box::new(|c| c.is_strange = true)),
        ("a missing intermediate", "UnknownIssuer", Box::new(|c| c.forgotten = Some(0))),
        ("revoked", "Revoked", Box::new(move |c| c.lists[1] = list(30, true))),
        ("a revoked intermediate", "Revoked", Box::new(move |c| c.lists[0] = list(30, true))),
        (
            "an unknown list",
            "UnknownRevocationStatus",
            Box::new(move |c| {
                c.lists[0] = list(30, false);
                c.deny_unknown = true;
            }),
        ),
        (
            "a list that ended long ago",
            "ExpiredRevocationList",
            Box::new(move |c| c.lists[1] = list(-20, false)),
        ),
    ];
    for (kind, expected, change) in cases {
        let mut case = plain();
        change(&mut case);
        let minted = mint(&case);
        let (ours, stock) = (words(ours(&case, &minted)), words(stock(&case, &minted)));
        assert_eq!(ours, stock, "{kind}");
        assert!(ours.contains(expected), "{kind}: {ours}");
    }
}
