//! `cargo xtask test`: which cells there are. How they are run is in `table`, how they are judged in `judge`.

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::judge::Judge;
use crate::scan;
use crate::table::{self, Cell, Options, Step, Work};
use crate::tools::Tool;
use crate::workspace::{Package, Target, Workspace};

/// The member whose integration tests are the end-to-end tests: a cell for each file.
const END_TO_END: &str = "certsource-tests";

/// The program that has the demo.
const PROGRAM: &str = "certsource";

/// The members with tests that pass over what this machine cannot run, unless they are asked strictly; and with which features.
const FORGIVING: [(&str, Selection); 3] = [
    ("certsource", Selection::All),
    ("certsource-reload", Selection::All),
    ("certsource-cli", Selection::Default),
];

/// What such a test calls, or reads itself.
const FORGIVES: [&str; 3] = ["not_run(", "as_another_user(", "\"CERTSOURCE_STRICT\""];

/// Feature sets that are compiled and not tested: no crypto provider is in them, so no handshake can be made.
const BUILD_ONLY: [(&str, Selection); 3] = [
    ("certsource-rustls", Selection::None),
    ("certsource-hyper", Selection::None),
    ("certsource-client", Selection::None),
];

/// The features that choose whose crypto is used: the default one, and the other.
const PROVIDERS: [&str; 2] = ["ring", "aws-lc-rs"];

/// The demo, once for each way to notice a change.
const DEMOS: [(&str, &[&str]); 4] = [
    ("demo/default", &[]),
    ("demo/mtime", &["--detect", "mtime"]),
    ("demo/sha256", &["--detect", "sha256"]),
    ("demo/notify", &["--detect", "notify"]),
];

/// Runs the table, or the part of it that was asked for.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::members_only()?;
    let cells = cells(&workspace, options.keeps_going())?;
    table::run(&cells, options, &workspace)
}

/// Every cell. The cheap and the basic come first: a failure there explains those that follow.
pub(crate) fn cells(workspace: &Workspace, keep_going: bool) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for package in workspace.members() {
        if package.name == END_TO_END {
            continue;
        }
        // The examples and the documents have none: their programs and their code are cells of their own.
        if package.is_published() || scan::has_tests(package.manifest_path.with_file_name("").as_path())? {
            for (selection, features) in selections(package) {
                cells.push(package_cell(package, selection, features, keep_going));
            }
            cells.extend(other_provider_cell(package, keep_going));
        }
        for (_, selection) in FORGIVING.into_iter().filter(|(name, _)| *name == package.name) {
            cells.push(strict_cell(package, selection, keep_going)?);
        }
        for target in package.targets_of("test") {
            if read_header(target)?.is_for_release {
                cells.push(release_cell(package, target));
            }
        }
        if let Some(library) = package.library() {
            if scan::has_doctests(&library.src_path.with_file_name(""))? {
                cells.push(doctest_cell(package));
            }
        }
    }
    for package in workspace.members() {
        if package.name == END_TO_END {
            cells.extend(shared_code_cell(package)?);
            for target in package.targets_of("test") {
                cells.extend(end_to_end_cells(package, target)?);
            }
        }
        for target in package.targets_of("example") {
            cells.push(example_cell(package, target)?);
        }
    }
    if workspace.members().iter().any(|package| package.targets_of("bin").any(|bin| bin.name == PROGRAM)) {
        cells.extend(DEMOS.iter().map(|(name, options)| demo_cell(name, options)));
    }
    Ok(cells)
}

/// A choice of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    Default,
    All,
    None,
}

impl Selection {
    /// The last part of a cell's name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::All => "all-features",
            Self::None => "no-default-features",
        }
    }

    /// The option that makes cargo choose so.
    pub(crate) fn option(self) -> Option<&'static str> {
        match self {
            Self::Default => None,
            Self::All => Some("--all-features"),
            Self::None => Some("--no-default-features"),
        }
    }
}

/// The choices that make a difference, and the features that are on in each.
pub(crate) fn selections(package: &Package) -> Vec<(Selection, BTreeSet<String>)> {
    let mut different: Vec<(Selection, BTreeSet<String>)> = Vec::new();
    let all = [
        (Selection::Default, package.closure(["default"])),
        (Selection::All, package.all_features()),
        (Selection::None, BTreeSet::new()),
    ];
    for (selection, features) in all {
        if different.iter().all(|(_, known)| *known != features) {
            different.push((selection, features));
        }
    }
    different
}

/// A package's name in a table.
pub(crate) fn short(package: &Package) -> &str {
    package.name.strip_prefix("certsource-").unwrap_or(&package.name)
}

fn package_cell(
    package: &Package,
    selection: Selection,
    features: BTreeSet<String>,
    keep_going: bool,
) -> Cell {
    let build_only = BUILD_ONLY.contains(&(package.name.as_str(), selection));
    let mut arguments = if build_only {
        vec!["check", "--package", &package.name, "--lib"]
    } else {
        vec!["test", "--package", &package.name, "--tests"]
    };
    arguments.extend(selection.option());
    if keep_going && !build_only {
        arguments.push("--no-fail-fast");
    }
    Cell {
        name: format!("{}/{}", short(package), selection.word()),
        needs: Vec::new(),
        work: Work::Run(Step::cargo(arguments)),
        judge: if build_only { Judge::Build } else { Judge::Tests },
        covers: Some((package.name.clone(), features)),
    }
}

/// The same tests with the crypto provider that is not the default one, and without the one that is: with the other default
/// features, or with all features where the provider is the only default one.
fn other_provider_cell(package: &Package, keep_going: bool) -> Option<Cell> {
    let mut features = package.closure(["default"]);
    if !features.remove(PROVIDERS[0]) || !package.features.contains_key(PROVIDERS[1]) {
        return None;
    }
    if features.is_empty() {
        features = package.all_features();
        features.remove(PROVIDERS[0]);
    }
    features.insert(PROVIDERS[1].to_owned());
    let list = features.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    let mut arguments = vec!["test", "--package", &package.name, "--tests", "--no-default-features"];
    arguments.extend(["--features", &list]);
    if keep_going {
        arguments.push("--no-fail-fast");
    }
    Some(Cell {
        name: format!("{}/{}", short(package), PROVIDERS[1]),
        needs: Vec::new(),
        work: Work::Run(Step::cargo(arguments)),
        judge: Judge::Tests,
        covers: Some((package.name.clone(), features)),
    })
}

fn doctest_cell(package: &Package) -> Cell {
    Cell {
        name: format!("{}/doctests", short(package)),
        needs: Vec::new(),
        work: Work::Run(Step::cargo(["test", "--package", &package.name, "--doc", "--all-features"])),
        judge: Judge::Tests,
        covers: None,
    }
}

/// What the end-to-end tests share may have tests of its own.
fn shared_code_cell(package: &Package) -> Result<Option<Cell>> {
    let Some(library) = package.library() else { return Ok(None) };
    if !scan::has_tests(&library.src_path.with_file_name(""))? {
        return Ok(None);
    }
    Ok(Some(Cell {
        name: "e2e/shared".to_owned(),
        needs: Vec::new(),
        work: Work::Run(Step::cargo(["test", "--package", &package.name, "--lib"])),
        judge: Judge::Tests,
        covers: None,
    }))
}

fn end_to_end_cells(package: &Package, target: &Target) -> Result<Vec<Cell>> {
    let header = read_header(target)?;
    let arguments = ["test", "--package", &package.name, "--test", &target.name];
    let cell = |name, arguments: &[&str], covers| Cell {
        name,
        needs: header.needs.clone(),
        work: Work::Run(Step::cargo(arguments.iter().copied())),
        judge: Judge::Tests,
        covers,
    };
    if header.features.is_empty() {
        return Ok(vec![cell(format!("e2e/{}", target.name), &arguments, None)]);
    }
    let with = |feature: &String| {
        let chosen = ["--no-default-features", "--features", feature.as_str()];
        let covers = Some((package.name.clone(), package.closure([feature.as_str()])));
        cell(format!("e2e/{}/{feature}", target.name), &[&arguments[..], &chosen].concat(), covers)
    };
    if let Some(unknown) = header.features.iter().find(|feature| !package.features.contains_key(*feature)) {
        bail!("{} wants the feature `{unknown}`, which {} has not", target.name, package.name);
    }
    Ok(header.features.iter().map(with).collect())
}

fn example_cell(package: &Package, target: &Target) -> Result<Cell> {
    let header = read_header(target)?;
    let verb = if header.build_only { "build" } else { "run" };
    Ok(Cell {
        name: format!("example/{}", target.name),
        needs: header.needs,
        work: Work::Run(Step::cargo([verb, "--package", &package.name, "--example", &target.name])),
        judge: if header.build_only { Judge::Build } else { Judge::Exit },
        covers: None,
    })
}

/// The tests that are passed over where a tool, or a right, is missing: once more, and now that is a failure.
fn strict_cell(package: &Package, selection: Selection, keep_going: bool) -> Result<Cell> {
    let mut needs = BTreeSet::new();
    let mut arguments = vec!["test", "--package", &package.name];
    arguments.extend(selection.option());
    for target in package.targets_of("test") {
        let own = read_header(target)?.needs;
        if is_forgiving(target)? || !own.is_empty() {
            needs.extend(own);
            arguments.extend(["--test", &target.name]);
        }
    }
    if keep_going {
        arguments.push("--no-fail-fast");
    }
    Ok(Cell {
        name: format!("{}/strict", short(package)),
        needs: needs.into_iter().collect(),
        work: Work::Run(Step::cargo(arguments).variable("CERTSOURCE_STRICT", "1")),
        judge: Judge::Tests,
        covers: None,
    })
}

/// A test that sees more in what users are given: a debug build leaves copies on the stack that it can not look for.
fn release_cell(package: &Package, target: &Target) -> Cell {
    let arguments =
        ["test", "--release", "--package", &package.name, "--all-features", "--test", &target.name];
    Cell {
        name: format!("{}/{}/release", short(package), target.name),
        needs: Vec::new(),
        work: Work::Run(Step::cargo(arguments)),
        judge: Judge::Tests,
        covers: None,
    }
}

fn is_forgiving(target: &Target) -> Result<bool> {
    let text = read(target)?;
    Ok(FORGIVES.iter().any(|call| text.contains(call)))
}

fn demo_cell(name: &str, options: &[&str]) -> Cell {
    let mut arguments = vec!["run", "--release", "--", "demo", "--rotations", "20", "--format", "json"];
    arguments.extend(options);
    Cell {
        name: name.to_owned(),
        needs: Vec::new(),
        work: Work::Run(Step::cargo(arguments)),
        judge: Judge::Demo,
        covers: None,
    }
}

/// What an end-to-end test, a test of the program or an example says about itself in its opening comment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Header {
    /// `//! needs: nginx openssl`
    needs: Vec<Tool>,
    /// `//! cell: build`: an example that does not end by itself, or wants arguments.
    build_only: bool,
    /// `//! cell: release`: a test that is run once more as it is built for release, with all features.
    is_for_release: bool,
    /// `//! features: ring aws-lc-rs`: an end-to-end test that is run once with each of these, and without the others.
    features: Vec<String>,
}

fn read_header(target: &Target) -> Result<Header> {
    header(&read(target)?).with_context(|| format!("the opening comment of {}", target.src_path.display()))
}

fn read(target: &Target) -> Result<String> {
    let path = &target.src_path;
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn header(text: &str) -> Result<Header> {
    let mut header = Header::default();
    for line in text.lines().map_while(|line| line.strip_prefix("//!")) {
        if let Some(tools) = line.trim().strip_prefix("needs:") {
            for tool in tools.split_whitespace() {
                header.needs.push(tool.parse()?);
            }
        } else if let Some(features) = line.trim().strip_prefix("features:") {
            header.features.extend(features.split_whitespace().map(str::to_owned));
        } else if let Some(how) = line.trim().strip_prefix("cell:") {
            match how.trim() {
                "build" => header.build_only = true,
                "release" => header.is_for_release = true,
                other => bail!("`cell: {other}` means nothing; there are `cell: build` and `cell: release`"),
            }
        }
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opening_comment_names_tools() {
        let text = "//! A real nginx demands client certificates.\n//! needs: nginx openssl\n\nuse std::fs;\n//! needs: curl\n";
        assert_eq!(header(text).unwrap().needs, [Tool::Nginx, Tool::Openssl]);
        assert_eq!(header("//! Nothing.\n").unwrap(), Header::default());
        assert!(header("//! needs: ngnix\n").is_err());
    }

    #[test]
    fn a_test_may_ask_to_be_run_with_each_of_some_features() {
        let header = header("//! A matrix.\n//! features: ring aws-lc-rs\n").unwrap();
        assert_eq!(header.features, ["ring", "aws-lc-rs"]);
        let workspace = Workspace::members_only().unwrap();
        let cells = cells(&workspace, true).unwrap();
        let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
        for name in ["e2e/matrix/ring", "e2e/matrix/aws-lc-rs", "client/aws-lc-rs"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(!names.contains(&"e2e/matrix"));
    }

    #[test]
    fn an_example_may_ask_to_be_built_only() {
        assert!(header("//! Serves for ever.\n//! cell: build\n").unwrap().build_only);
        assert!(header("//! cell: skip\n").is_err());
    }

    #[test]
    fn a_test_may_ask_to_be_run_as_it_is_built_for_release() {
        assert!(header("//! Memory.\n//! cell: release\n").unwrap().is_for_release);
        let cells = cells(&Workspace::members_only().unwrap(), true).unwrap();
        let wiped = cells.iter().find(|cell| cell.name == "certsource/wiped/release").unwrap();
        let Work::Run(step) = &wiped.work else { panic!("it runs cargo") };
        assert!(format!("{step:?}").contains("--release"), "{step:?}");
    }

    #[test]
    fn the_real_table_names_each_cell_once_and_covers_every_member() {
        let workspace = Workspace::members_only().unwrap();
        let cells = cells(&workspace, true).unwrap();
        let names: BTreeSet<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
        assert_eq!(names.len(), cells.len());
        for package in workspace.members() {
            let mut starts = vec![format!("{}/", short(package))];
            if package.name == END_TO_END {
                starts.push("e2e/".to_owned());
            }
            starts.extend(package.targets_of("example").map(|example| format!("example/{}", example.name)));
            let is_in = |start: &String| names.iter().any(|name| name.starts_with(start));
            let has_tests = package.name != END_TO_END || package.targets_of("test").next().is_some();
            assert_eq!(starts.iter().any(is_in), has_tests, "{starts:?}");
        }
    }

    #[test]
    fn what_tests_may_pass_over_is_run_strictly() {
        let workspace = Workspace::members_only().unwrap();
        let cells = cells(&workspace, true).unwrap();
        let program =
            [Tool::Unshare, Tool::Script, Tool::SystemdAnalyze, Tool::Promtool, Tool::Nginx, Tool::Openssl];
        let of = |name: &str| match name {
            "cli/strict" => &program[..],
            "reload/strict" => &[Tool::Unshare, Tool::Setpriv, Tool::Python3],
            _ => &[Tool::Setpriv],
        };
        for package in workspace.members() {
            if package.name == END_TO_END {
                continue;
            }
            let name = format!("{}/strict", short(package));
            let cell = cells.iter().find(|cell| cell.name == name);
            let line = cell.map_or_else(String::new, |cell| match &cell.work {
                Work::Run(step) => format!("{step:?}"),
                _ => panic!("{name} runs cargo"),
            });
            if let Some(cell) = cell {
                assert!(line.contains("CERTSOURCE_STRICT"), "{line}");
                assert!(of(&name).iter().all(|tool| cell.needs.contains(tool)), "{name}: {:?}", cell.needs);
            }
            for target in package.targets_of("test") {
                let is_in = line.contains(&format!("\"{}\"", target.name));
                assert!(is_in || !is_forgiving(target).unwrap(), "{}: {line}", target.name);
            }
        }
        assert!(
            FORGIVING.iter().all(|(name, _)| workspace.members().iter().any(|member| member.name == *name))
        );
    }

    #[test]
    fn choices_that_build_the_same_are_listed_once() {
        let workspace = Workspace::members_only().unwrap();
        for package in workspace.members() {
            let selections = selections(package);
            assert_eq!(selections[0].0, Selection::Default);
            let distinct: BTreeSet<_> = selections.iter().map(|(_, features)| features).collect();
            assert_eq!(distinct.len(), selections.len());
            assert!(distinct.contains(&package.all_features()));
        }
    }
}
