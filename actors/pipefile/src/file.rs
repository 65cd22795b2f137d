//! A pipeline file: its nodes, and what takes from what.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_telemetry::TelemetryError;
use toml::de::DeTable;

use crate::{
    copies,
    problem::{Findings, Problems, Span, listed},
    settings::{Settings, Telemetry},
    sinks::{self, SinkPart},
    sources::{self, SourcePart},
    stages::{self, StagePart},
    table::{At, Table},
};

/// A pipeline file that was read and found to be in order, as far as that can be told without opening what it names.
///
/// ```
/// use millstream_pipefile::{PipelineFile, Plot};
///
/// let text = r#"
///     [[source]]
///     kind = "lines"
///     path = "in.txt"
///
///     [[sink]]
///     kind = "jsonl"
///     path = "out.jsonl"
/// "#;
/// let file = PipelineFile::parse("copy.toml", text, "")?;
/// assert!(file.plot(Plot::Mermaid).contains("lines --> jsonl"));
/// # Ok::<(), millstream_pipefile::Problems>(())
/// ```
pub struct PipelineFile {
    pub(crate) file: String,
    pub(crate) text: Arc<str>,
    /// Where relative paths begin.
    pub(crate) root: PathBuf,
    pub(crate) settings: Settings,
    /// In the order of the text.
    pub(crate) nodes: Vec<Node>,
    /// The nodes' places, each behind those that it takes from.
    pub(crate) order: Vec<usize>,
}

/// A source, a stage or a sink.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    /// Where the name stands, or else the node.
    pub(crate) place: Span,
    pub(crate) part: Part,
    /// Nodes, and which of their ways out.
    pub(crate) inputs: Vec<(usize, usize)>,
    /// How many of them, the last, are what the others are joined with.
    pub(crate) partners: usize,
}

pub(crate) enum Part {
    Source(Box<dyn SourcePart>),
    Stage(Box<dyn StagePart>),
    Sink(Box<dyn SinkPart>),
}

/// Why a file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It is wrong.
    #[error(transparent)]
    Problems(#[from] Problems),
}

impl PipelineFile {
    /// Reads a file. Relative paths in it begin at its folder.
    ///
    /// # Errors
    /// If it cannot be read, and everything that is wrong with it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|error| FileError::Io { path: path.to_owned(), error })?;
        Ok(Self::parse(&path.display().to_string(), &text, path.parent().unwrap_or(Path::new("")))?)
    }

    /// Reads a text. `file` is what messages call it; relative paths in it begin at `root`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &str, text: &str, root: impl Into<PathBuf>) -> Result<Self, Problems> {
        let shared: Arc<str> = text.into();
        let findings = Findings::default();
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            findings.add(&error.span().unwrap_or(0..0), error.message());
        }
        if !findings.is_empty() {
            return Err(findings.problems(file, &shared));
        }
        let table = Table::new(document.get_ref(), "a pipeline", 0..0, &findings);
        let settings = Settings::read(&table, file);
        let mut drafts = drafts(&table);
        table.done();
        drafts.sort_by_key(|draft| draft.table.span.start);
        let names: Vec<_> = drafts.iter().map(|draft| (draft.name.value.as_str(), draft.role == Role::Source)).collect();
        settings.supervised.check(&names, &findings);
        let order = connect(&mut drafts, &findings);
        let nodes: Option<Vec<Node>> = drafts.into_iter().map(Draft::node).collect();
        match (nodes, order) {
            (Some(nodes), Some(order)) if findings.is_empty() => {
                Ok(PipelineFile { file: file.to_owned(), text: shared, root: root.into(), settings, nodes, order })
            }
            _ => Err(findings.problems(file, &shared)),
        }
    }

    /// Has spans sent to the OpenTelemetry collector at this address, in place of the one that the file names; how many, and
    /// as which service, stays as the file has it.
    ///
    /// # Errors
    /// If the address is none.
    pub fn otlp(mut self, url: &str) -> Result<Self, TelemetryError> {
        let url = At { value: url.to_owned(), span: 0..0 };
        let telemetry = match self.settings.telemetry.take() {
            Some(telemetry) => Telemetry { url, ..telemetry },
            None => Telemetry { url, sample: 1.0, service: self.settings.name.clone() },
        };
        telemetry.otlp().check()?;
        self.settings.telemetry = Some(telemetry);
        Ok(self)
    }

    /// What metrics call the pipeline: its `name`, or else the file's.
    pub fn name(&self) -> &str {
        &self.settings.name
    }
}

impl Node {
    /// How many ways lead out of it.
    pub(crate) fn ways(&self) -> usize {
        match &self.part {
            Part::Source(_) => 1,
            Part::Stage(stage) => stage.ways().map_or(1, |ways| ways.len()),
            Part::Sink(_) => 0,
        }
    }

    /// What `from` calls a way out of it.
    pub(crate) fn way_name(&self, way: usize) -> String {
        match &self.part {
            Part::Stage(stage) => stage.ways().map_or_else(|| self.name.clone(), |ways| format!("{}.{}", self.name, ways[way])),
            Part::Source(_) | Part::Sink(_) => self.name.clone(),
        }
    }

    /// What people call it: its name, its kind if that is another word, and how many threads run it.
    pub(crate) fn title(&self) -> String {
        let title = if self.name == self.kind { self.name.clone() } else { format!("{}: {}", self.name, self.kind) };
        let replicas = match &self.part {
            Part::Stage(stage) => stage.options().map(ToString::to_string).unwrap_or_default(),
            Part::Source(_) | Part::Sink(_) => String::new(),
        };
        if replicas.is_empty() { title } else { format!("{title} {replicas}") }
    }

    /// What it does, for people.
    pub(crate) fn detail(&self) -> String {
        match &self.part {
            Part::Source(source) => source.detail(),
            Part::Stage(stage) => stage.detail(),
            Part::Sink(sink) => sink.detail(),
        }
    }
}

/// A node that may be wrong.
struct Draft<'t> {
    table: Table<'t>,
    role: Role,
    kind: &'static str,
    name: At<String>,
    /// The name is that of the kind.
    unnamed: bool,
    part: Option<Part>,
    from: Option<At<Vec<At<String>>>>,
    inputs: Vec<(usize, usize)>,
    partners: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Source,
    Stage,
    Sink,
}

impl Draft<'_> {
    fn node(self) -> Option<Node> {
        Some(Node { name: self.name.value, kind: self.kind, place: self.name.span, part: self.part?, inputs: self.inputs, partners: self.partners })
    }

    /// The names of its ways out, empty for one that has no name; `None` if they are not known.
    fn ways(&self) -> Option<Vec<String>> {
        match (&self.part, self.role) {
            (_, Role::Sink) => Some(Vec::new()),
            (None, _) => None,
            (Some(Part::Stage(stage)), _) => Some(stage.ways().unwrap_or_else(|| vec![String::new()])),
            (Some(_), _) => Some(vec![String::new()]),
        }
    }
}

/// All nodes of the file.
fn drafts<'t>(table: &Table<'t>) -> Vec<Draft<'t>> {
    let mut drafts = Vec::new();
    for source in table.tables("source") {
        let kind = kind(&source, "source", sources::KINDS);
        drafts.push(draft(source, Role::Source, kind.map(|(name, read)| (name, move |table: &Table<'_>| read(table).map(Part::Source)))));
    }
    for stage in table.tables("stage") {
        let kind = kind(&stage, "stage", stages::KINDS);
        drafts.push(draft(stage, Role::Stage, kind.map(|(name, read)| (name, move |table: &Table<'_>| read(table).map(Part::Stage)))));
    }
    for sink in table.tables("sink") {
        let kind = kind(&sink, "sink", sinks::KINDS);
        drafts.push(draft(sink, Role::Sink, kind.map(|(name, read)| (name, move |table: &Table<'_>| read(table).map(Part::Sink)))));
    }
    for what in ["source", "sink"] {
        if !table.has(what) {
            table.findings.add(&table.span, format!("the pipeline has no {what}"));
        }
    }
    drafts
}

fn kind<R: Copy>(table: &Table<'_>, role: &str, kinds: &[(&'static str, R)]) -> Option<(&'static str, R)> {
    let word = table.need::<String>("kind")?;
    let known = kinds.iter().find(|(name, _)| *name == word.value).copied();
    if known.is_none() {
        let names: Vec<_> = kinds.iter().map(|(name, _)| *name).collect();
        table.findings.suggest(&word.span, format!("there is no kind `{}` of {role}", word.value), &word.value, &names);
    }
    known
}

fn draft<'t>(mut table: Table<'t>, role: Role, kind: Option<(&'static str, impl Fn(&Table<'_>) -> Option<Part>)>) -> Draft<'t> {
    let from = if role == Role::Source { None } else { table.read("from") };
    let given = table.read::<String>("name");
    if let Some(name) = &given {
        check_name(name, table.findings);
    }
    let (mut word, mut part) = ("", None);
    if let Some((kind, read)) = kind {
        let role = match role {
            Role::Source => "source",
            Role::Stage => "stage",
            Role::Sink => "sink",
        };
        table = table.called(format!("a {role} of kind `{kind}`"));
        (word, part) = (kind, read(&table));
        // The keys of a kind that is not known are not known either.
        table.done();
    }
    let unnamed = given.is_none();
    let name = given.unwrap_or_else(|| At { value: word.to_owned(), span: table.span.clone() });
    Draft { table, role, kind: word, name, unnamed, part, from, inputs: Vec::new(), partners: 0 }
}

/// Names appear in `from`, where a dot stands before a way.
pub(crate) fn check_name(name: &At<String>, findings: &Findings) {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.value.is_empty() || !name.value.chars().all(fits) {
        findings.add(&name.span, format!("{:?} is no name: letters, digits, `_` and `-` make one", name.value));
    }
}

/// Finds what each node takes from, and an order in which each comes behind that.
fn connect(drafts: &mut [Draft<'_>], findings: &Findings) -> Option<Vec<usize>> {
    for (index, draft) in drafts.iter().enumerate() {
        let known = !draft.name.value.is_empty();
        if known && drafts[..index].iter().any(|other| other.name.value == draft.name.value) {
            let message = format!("there are two nodes called `{}`", draft.name.value);
            let hint = if draft.unnamed { "give it a `name`: without one it is called by its kind" } else { "the other comes before" };
            findings.hint(&draft.name.span, message, hint);
        }
    }
    let mut complete = true;
    for index in 0..drafts.len() {
        let inputs = match (drafts[index].role, &drafts[index].from) {
            (Role::Source, _) => Some(Vec::new()),
            (_, Some(from)) => named(drafts, index, "from", from, findings),
            (_, None) => written_before(drafts, index, findings),
        };
        let partners = match &drafts[index].part {
            Some(Part::Stage(stage)) => stage.partners().map_or_else(|| Some(Vec::new()), |with| partners(drafts, index, with, inputs.as_deref(), findings)),
            _ => Some(Vec::new()),
        };
        complete &= inputs.is_some() && partners.is_some();
        let (mut inputs, partners) = (inputs.unwrap_or_default(), partners.unwrap_or_default());
        drafts[index].partners = partners.len();
        inputs.extend(partners);
        drafts[index].inputs = inputs;
    }
    if !complete {
        return None;
    }
    for (index, draft) in drafts.iter().enumerate() {
        for (way, name) in draft.ways().into_iter().flatten().enumerate() {
            if !drafts.iter().any(|other| other.inputs.contains(&(index, way))) {
                let name = if name.is_empty() { draft.name.value.clone() } else { format!("{}.{name}", draft.name.value) };
                findings.hint(&draft.name.span, format!("nothing takes from `{name}`"), format!("a stage or a sink with `from = \"{name}\"` would"));
            }
        }
    }
    let order = sorted(drafts, findings)?;
    let node = |draft: &'_ Draft<'_>| {
        let stage = match &draft.part {
            Some(Part::Stage(stage)) => Some(stage.as_ref()),
            _ => None,
        };
        copies::Crossing {
            name: draft.name.clone(),
            from: draft.from.as_ref().map_or_else(|| draft.name.span.clone(), |from| from.span.clone()),
            with: stage.and_then(|stage| stage.partners().cloned()),
            meeting: stage.and_then(StagePart::meeting),
            known: draft.part.is_some(),
            inputs: draft.inputs.clone(),
            partners: draft.partners,
        }
    };
    copies::check(&drafts.iter().map(node).collect::<Vec<_>>(), &order, findings);
    Some(order)
}

/// What stands in `with`.
fn partners(
    drafts: &[Draft<'_>],
    index: usize,
    with: &At<Vec<At<String>>>,
    inputs: Option<&[(usize, usize)]>,
    findings: &Findings,
) -> Option<Vec<(usize, usize)>> {
    let ports = named(drafts, index, "with", with, findings)?;
    if inputs.is_some_and(|inputs| ports.iter().any(|port| inputs.contains(port))) {
        findings.hint(&with.span, "`with` names what the stage takes from already", "a record is joined with what another branch made of it");
        return None;
    }
    Some(ports)
}

/// What stands in `from` or `with`.
fn named(drafts: &[Draft<'_>], index: usize, key: &str, from: &At<Vec<At<String>>>, findings: &Findings) -> Option<Vec<(usize, usize)>> {
    let mut ports = Vec::new();
    let mut complete = true;
    if from.value.is_empty() {
        findings.add(&from.span, format!("`{key}` names nothing"));
        complete = false;
    }
    for name in &from.value {
        let (node, way) = name.value.split_once('.').map_or((&*name.value, None), |(node, way)| (node, Some(way)));
        let Some(found) = drafts.iter().position(|draft| draft.name.value == node && !node.is_empty()) else {
            let known: Vec<&str> = drafts.iter().filter(|draft| draft.role != Role::Sink).map(|draft| &*draft.name.value).collect();
            findings.suggest(&name.span, format!("`{key}`: there is no node `{node}`"), node, &known);
            complete = false;
            continue;
        };
        let port = if found == index { Err("it is the node itself".to_owned()) } else { way_out(&drafts[found], way) };
        match port {
            Ok(Some(way)) if ports.contains(&(found, way)) => findings.add(&name.span, format!("`{key}`: `{}` is named twice", name.value)),
            Ok(Some(way)) => ports.push((found, way)),
            // That node was wrong itself.
            Ok(None) => {}
            Err(hint) => {
                findings.hint(&name.span, format!("`{key}`: nothing can be taken from `{}`", name.value), hint);
                complete = false;
            }
        }
    }
    complete.then_some(ports)
}

/// The number of a way out, `None` if that cannot be known, or what is wrong with it.
fn way_out(draft: &Draft<'_>, way: Option<&str>) -> Result<Option<usize>, String> {
    let Some(ways) = draft.ways() else { return Ok(None) };
    match (way, &ways[..]) {
        (_, []) => Err("it is a sink".to_owned()),
        (None, [only]) if only.is_empty() => Ok(Some(0)),
        (Some(_), [only]) if only.is_empty() => Err(format!("`{}` has one way out, without a name", draft.name.value)),
        (way, _) => {
            let names: Vec<String> = ways.iter().map(|way| format!("{}.{way}", draft.name.value)).collect();
            let hint = || format!("its ways out are {}", listed(&names.iter().map(String::as_str).collect::<Vec<_>>()));
            way.and_then(|way| ways.iter().position(|name| name == way)).map(Some).ok_or_else(hint)
        }
    }
}

/// The way out of the node that stands before this one in the text.
fn written_before(drafts: &[Draft<'_>], index: usize, findings: &Findings) -> Option<Vec<(usize, usize)>> {
    let place = &drafts[index].name.span;
    let Some(before) = index.checked_sub(1) else {
        findings.hint(place, format!("`{}` has nothing to take from", drafts[index].name.value), "no node stands before it: give it `from`");
        return None;
    };
    match way_out(&drafts[before], None) {
        Ok(way) => Some(way.map(|way| (before, way)).into_iter().collect()),
        Err(hint) => {
            let message =
                format!("`{}` needs `from`: nothing can be taken from `{}`, which stands before it", drafts[index].name.value, drafts[before].name.value);
            findings.hint(place, message, hint);
            None
        }
    }
}

/// Each node behind those that it takes from, in the order of the text where that leaves a choice.
fn sorted(drafts: &[Draft<'_>], findings: &Findings) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < drafts.len() {
        let ready = |index: &usize| !order.contains(index) && drafts[*index].inputs.iter().all(|(before, _)| order.contains(before));
        match (0..drafts.len()).find(ready) {
            Some(index) => order.push(index),
            None => {
                let mut circle: Vec<usize> = (0..drafts.len()).filter(|index| !order.contains(index)).collect();
                // What only comes out of a circle is no part of it.
                while let Some(at) = circle.iter().position(|index| !circle.iter().any(|other| drafts[*other].inputs.iter().any(|(before, _)| before == index)))
                {
                    circle.remove(at);
                }
                let names: Vec<&str> = circle.iter().map(|index| &*drafts[*index].name.value).collect();
                let place = circle.iter().find_map(|index| drafts[*index].from.as_ref()).map_or(0..0, |from| from.span.clone());
                findings.add(&place, format!("records would go in a circle through {}", listed(&names)));
                return None;
            }
        }
    }
    Some(order)
}
