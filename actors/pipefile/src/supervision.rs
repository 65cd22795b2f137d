//! How crashes are answered: the table `supervision`, and `[[group]]` for stages that stand and fall together.

use std::{fmt, time::Duration};

use millstream_runtime::{Exceeded, Pipeline, Strategy, Supervision};

use crate::{
    problem::{Findings, Span},
    table::{At, Table},
};

/// The words for strategies.
const STRATEGIES: [(&str, Strategy); 3] = [("one_for_one", Strategy::OneForOne), ("rest_for_one", Strategy::RestForOne), ("one_for_all", Strategy::OneForAll)];

/// The words for what happens when a stage has crashed too often.
const EXCEEDED: [(&str, Exceeded); 2] = [("escalate", Exceeded::Escalate), ("quarantine", Exceeded::Quarantine)];

/// What a file says of crashes.
pub(crate) struct Supervised {
    /// For stages that are in no group.
    rest: Supervision,
    pub(crate) groups: Vec<Group>,
    /// Where the file first says that stages may go into quarantine.
    pub(crate) quarantine: Option<Span>,
}

/// Nodes that stand and fall together.
pub(crate) struct Group {
    name: At<String>,
    pub(crate) stages: Vec<At<String>>,
    rules: Supervision,
}

impl Supervised {
    pub(crate) fn read(table: &Table<'_>) -> Self {
        let mut quarantine = None;
        let rest = table.table("supervision").map_or_else(Supervision::default, |table| {
            let rules = rules(&table, Supervision::default(), &mut quarantine);
            table.done();
            rules
        });
        let mut groups: Vec<Group> = Vec::new();
        for table in table.tables("group") {
            let rules = rules(&table, rest, &mut quarantine);
            let (name, stages) = (table.need::<String>("name"), table.need::<Vec<At<String>>>("stages"));
            table.done();
            let (Some(name), Some(stages)) = (name, stages) else { continue };
            crate::file::check_name(&name, table.findings);
            if groups.iter().any(|other| other.name.value == name.value) {
                table.findings.add(&name.span, format!("there are two groups called `{}`", name.value));
            }
            groups.push(Group { name, stages: stages.value, rules });
        }
        Supervised { rest, groups, quarantine }
    }

    /// Holds the groups against the nodes that there are: their names, and whether they are sources.
    pub(crate) fn check(&self, nodes: &[(&str, bool)], findings: &Findings) {
        let mut taken: Vec<(&str, &str)> = Vec::new();
        for group in &self.groups {
            for stage in &group.stages {
                match nodes.iter().find(|(name, _)| *name == stage.value) {
                    Some((_, true)) => findings.add(&stage.span, format!("`{}` is a source, which cannot be restarted", stage.value)),
                    Some((_, false)) => {}
                    None => {
                        let known: Vec<&str> = nodes.iter().filter(|(_, source)| !source).map(|(name, _)| *name).collect();
                        findings.suggest(&stage.span, format!("`stages`: there is no node `{}`", stage.value), &stage.value, &known);
                    }
                }
                if let Some((_, other)) = taken.iter().find(|(name, _)| *name == stage.value) {
                    findings.add(&stage.span, format!("`{}` is in group `{other}` already", stage.value));
                }
                taken.push((&stage.value, &group.name.value));
            }
        }
    }

    /// The group of a node, by its name.
    pub(crate) fn group_of(&self, node: &str) -> Option<&str> {
        self.groups.iter().find(|group| group.stages.iter().any(|stage| stage.value == node)).map(|group| group.name.value.as_str())
    }

    pub(crate) fn apply(&self, pipeline: Pipeline) -> Pipeline {
        let pipeline = pipeline.supervision(self.rest);
        if self.groups.is_empty() {
            return pipeline;
        }
        // What is wrong with the pipeline is told when it is started.
        let stages: Vec<String> = pipeline.outline().map_or_else(|_| Vec::new(), |outline| outline.stages.into_iter().map(|stage| stage.name).collect());
        self.groups.iter().fold(pipeline, |pipeline, group| {
            // A node may be several stages, called by its name and a dot.
            let belongs = |stage: &&String| group.stages.iter().any(|node| stage.split('.').next() == Some(&node.value));
            pipeline.group(&group.name.value, stages.iter().filter(belongs).map(String::as_str), group.rules)
        })
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Group { name, stages, rules } = self;
        let stages: Vec<&str> = stages.iter().map(|stage| stage.value.as_str()).collect();
        let strategy = STRATEGIES.iter().find(|(_, strategy)| *strategy == rules.strategy).map_or("", |(word, _)| word);
        let exceeded = EXCEEDED.iter().find(|(_, exceeded)| *exceeded == rules.exceeded).map_or("", |(word, _)| word);
        write!(f, "group `{}` ({}): {strategy}, {} restarts within {:?}, then {exceeded}", name.value, stages.join(", "), rules.restarts, rules.within)
    }
}

/// The keys of `supervision`, and of a group. What is left out is as it was.
fn rules(table: &Table<'_>, mut rules: Supervision, quarantine: &mut Option<Span>) -> Supervision {
    if let Some(strategy) = table.choice("strategy", &STRATEGIES) {
        rules.strategy = strategy;
    }
    if let Some(exceeded) = table.choice("exceeded", &EXCEEDED) {
        rules.exceeded = exceeded;
        if exceeded == Exceeded::Quarantine {
            quarantine.get_or_insert_with(|| table.key_span("exceeded"));
        }
    }
    if let Some(restarts) = table.read_if::<u64>("restarts", |restarts| u32::try_from(*restarts).is_ok(), "below 4294967296") {
        rules.restarts = u32::try_from(restarts.value).unwrap_or(u32::MAX);
    }
    let time = |key, into: &mut Duration| {
        if let Some(time) = table.read::<Duration>(key) {
            *into = time.value;
        }
    };
    time("within", &mut rules.within);
    time("backoff", &mut rules.backoff);
    time("max_backoff", &mut rules.max_backoff);
    time("healthy", &mut rules.healthy);
    rules
}
