//! The rules of ARCHITECTURE.md that can be read off the tree: which crate may use which, what stays free of std and of
//! `unsafe`, how long files get, and that each invariant names a test that exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// What each crate may use of ours, in normal and build dependencies. Everything else is an error.
const ALLOWED: &[(&str, &[&str])] = &[
    ("simd", &[]),
    ("tensor", &[]),
    ("graph", &["simd", "tensor"]),
    ("onnx", &["tensor", "graph"]),
    ("safetensors", &["tensor", "graph"]),
    ("gemm", &["simd", "tensor"]),
    ("ops", &["simd", "tensor", "graph", "gemm"]),
    ("engine", &["simd", "tensor", "graph"]),
    ("compile", &["simd", "tensor", "graph", "gemm", "ops", "engine"]),
    ("cpu", &["simd", "tensor", "graph", "gemm", "ops", "compile", "engine"]),
    ("cuda", &["simd", "tensor", "graph", "gemm", "ops", "compile", "engine", "cpu"]),
    ("candle", &["simd", "tensor", "graph", "gemm", "ops", "compile", "engine", "cpu", "cuda"]),
    ("edge", &[]),
    ("runtime", &["edge", "tensor", "graph", "engine"]),
    ("io", &["runtime"]),
    ("remote", &["runtime"]),
    ("telemetry", &["runtime"]),
    ("pipefile", &["tensor", "engine", "runtime", "io", "remote", "telemetry"]),
    (
        "",
        &[
            "simd",
            "tensor",
            "graph",
            "onnx",
            "safetensors",
            "gemm",
            "ops",
            "compile",
            "engine",
            "cpu",
            "candle",
            "cuda",
            "edge",
            "runtime",
            "io",
            "remote",
            "telemetry",
            "pipefile",
        ],
    ),
    ("cli", &["", "io"]),
];

/// Crates that nothing depends on: they may use everything.
const UNRESTRICTED: &[&str] = &["tests", "benches"];

/// Crates without std.
const KERNEL: &[&str] = &["simd", "tensor", "graph", "onnx", "safetensors", "gemm", "ops", "compile", "engine"];

/// Crates that may use `unsafe`; each block of theirs has a `SAFETY` line, which clippy enforces.
const UNSAFE: &[&str] = &["simd", "gemm", "tensor", "cpu", "candle", "cuda"];

/// The most crates of others that the kernel and the ONNX reader bring into a program (procedural macros stay outside).
const MOST_CRATES: usize = 15;

/// The most lines of a file.
const MOST_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text in cargo's metadata")
}

/// A crate's short name: `millstream` is the empty one.
fn short(name: &str) -> Option<&str> {
    match name {
        "millstream" => Some(""),
        _ => name.strip_prefix("millstream-"),
    }
}

/// Each of our crates by short name, with its folder and the short names of those of our crates that it uses.
fn crates() -> BTreeMap<String, (PathBuf, BTreeSet<String>)> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps"])).expect("cargo's metadata is JSON");
    let ours = |package: &Value| {
        let name = short(text(&package["name"])).expect("every crate of the workspace is named millstream-…").to_owned();
        let folder = Path::new(text(&package["manifest_path"])).parent().expect("a manifest lies in a folder").to_path_buf();
        let normal = array(&package["dependencies"]).iter().filter(|d| d["kind"] != "dev");
        let uses = normal.filter_map(|d| short(text(&d["name"]))).map(str::to_owned).collect();
        (name, (folder, uses))
    };
    array(&metadata["packages"]).iter().map(ours).collect()
}

/// Every file that git knows, or would add, with one of these endings.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut command = Command::new("git");
    let output = command.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root()).output().expect("git runs");
    let listed = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let found: Vec<PathBuf> = listed.lines().filter(|l| endings.iter().any(|e| l.ends_with(e))).map(|l| root().join(l)).filter(|p| p.is_file()).collect();
    assert!(!found.is_empty(), "git lists no {endings:?}");
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    for (name, (_, uses)) in crates() {
        if UNRESTRICTED.contains(&name.as_str()) {
            continue;
        }
        let may = allowed.get(name.as_str()).unwrap_or_else(|| panic!("crate `{name}` has no line in ALLOWED"));
        for used in uses {
            assert!(may.contains(&used.as_str()), "`{name}` may not use `{used}`");
        }
    }
}

#[test]
fn the_table_of_dependencies_has_no_cycle_and_no_ghost() {
    let known = crates();
    for (i, (name, uses)) in ALLOWED.iter().enumerate() {
        assert!(known.contains_key(*name), "there is no crate `{name}`");
        for used in *uses {
            let before = ALLOWED[..i].iter().any(|(n, _)| n == used);
            assert!(before, "`{used}` stands below its user `{name}`, or nowhere");
        }
    }
}

#[test]
fn the_kernel_alone_is_small() {
    let tree = cargo(&["tree", "-p", "millstream", "--no-default-features", "--features", "onnx", "-e", "normal,no-proc-macro", "--prefix", "none"]);
    let names: BTreeSet<&str> = tree.lines().filter_map(|l| l.split_whitespace().next()).collect();
    let foreign: Vec<_> = names.iter().filter(|n| short(n).is_none()).collect();
    for name in ["actix", "tokio", "crossbeam", "clap", "tracing"] {
        assert!(!names.contains(name), "the kernel brings {name} in");
    }
    assert!(foreign.len() <= MOST_CRATES, "the kernel alone brings {} crates in: {foreign:?}", foreign.len());
}

#[test]
fn the_kernel_has_no_std_and_unsafe_stays_where_it_may_be() {
    for (name, (folder, _)) in crates() {
        let entry = ["src/lib.rs", "src/main.rs"].map(|f| folder.join(f)).into_iter().find(|f| f.exists()).expect("a crate has a library or a program");
        let source = read(&entry);
        if KERNEL.contains(&name.as_str()) {
            assert!(source.contains("#![no_std]"), "{} is not no_std", entry.display());
        }
        if !UNSAFE.contains(&name.as_str()) {
            assert!(source.contains("#![forbid(unsafe_code)]"), "{} does not forbid unsafe code", entry.display());
        }
    }
}

#[test]
fn instructions_of_one_isa_stay_in_simd_and_gemm() {
    for file in files(&[".rs"]) {
        let within = ["kernel/simd", "kernel/gemm"].iter().any(|f| file.starts_with(root().join(f)));
        let attribute = ["#[target", "_feature("].concat();
        assert!(within || !read(&file).contains(&attribute), "{} has code for one instruction set", file.display());
    }
}

#[test]
fn files_stay_readable() {
    for file in files(&[".rs", ".py"]) {
        let lines = read(&file).lines().count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines", file.display());
    }
}

#[test]
fn modules_say_what_they_are_for() {
    for file in files(&[".rs"]) {
        let source = read(&file);
        // A shebang-like attribute may come first; the text may not be missing.
        assert!(source.lines().any(|l| l.starts_with("//!")), "{} has no //! text", file.display());
    }
}

/// Every invariant is a line `N. **Text** … (`test_name`, …)`, and each test named in its brackets exists.
#[test]
fn every_invariant_names_its_test() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let section = text.split("## Invariants").nth(1).expect("ARCHITECTURE.md has invariants").split("\n## ").next().unwrap_or_default();
    let sources: Vec<String> = files(&[".rs", ".py"]).iter().map(|f| read(f)).collect();
    let items: Vec<&str> = section.split("\n").filter(|l| l.split_once(". ").is_some_and(|(n, _)| n.parse::<u32>().is_ok())).collect();
    assert!(items.len() >= 10, "only {} invariants found", items.len());
    for item in items {
        let named = item.rsplit_once("Held by: ").unwrap_or_else(|| panic!("no test named by: {item}")).1;
        let tests: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test named by: {item}");
        for test in tests {
            let name = test.rsplit([':', '.']).next().expect("a path has a last part");
            let exists = [format!("fn {name}("), format!("def {name}("), format!("macro_rules! {name} ")];
            assert!(exists.iter().any(|e| sources.iter().any(|s| s.contains(e))), "`{test}` does not exist, named by: {item}");
        }
    }
}
