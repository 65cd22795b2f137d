//! Headers of requests. What they say stands in the file; what is secret stands in the environment, and the file names it.

use std::env::{self, VarError};

use millstream_remote::RemoteModel;

use crate::{
    problem::{Findings, Span},
    table::{At, FromToml, Pairs, Table, Value, Wrong},
};

/// Words in the names of headers and of an address's parameters that hold a secret.
const SECRETS: [&str; 9] = ["auth", "authorization", "cookie", "key", "apikey", "token", "secret", "password", "signature"];

/// Whether what has this name is a secret.
pub(super) fn holds_secret(name: &str) -> bool {
    name.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| SECRETS.contains(&part.to_ascii_lowercase().as_str()))
}

/// The headers that a file gives.
#[derive(Default)]
pub(super) struct Headers(Vec<(At<String>, At<Said>)>);

/// What a header says.
enum Said {
    Text(String),
    /// What a variable of the environment holds, behind a text.
    Variable {
        name: String,
        prefix: String,
    },
}

impl FromToml for Said {
    fn what() -> String {
        "text, or a variable of the environment as in { env = \"TOKEN\", prefix = \"Bearer \" }".to_owned()
    }

    fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        if let Some(text) = value.as_str() {
            return Ok(Said::Text(text.to_owned()));
        }
        let table = value.as_table("a header".to_owned()).ok_or(Wrong::Kind)?;
        let prefix = table.read::<String>("prefix").map(|text| text.value).unwrap_or_default();
        let name = table.need::<String>("env");
        table.done();
        Ok(Said::Variable { name: name.ok_or(Wrong::Reported)?.value, prefix })
    }
}

impl Headers {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let headers = table.read::<Pairs<At<Said>>>("headers").map(|pairs| pairs.value.0).unwrap_or_default();
        for (index, (name, said)) in headers.iter().enumerate() {
            if matches!(said.value, Said::Text(_)) && holds_secret(&name.value) {
                let hint = "the environment is: { env = \"NAME\" }, with `prefix` where something stands before it";
                table.findings.hint(&said.span, format!("`headers`: `{}` is a secret, and a file is no place for one", name.value), hint);
            }
            let text = match &said.value {
                Said::Text(text) => text.as_str(),
                Said::Variable { prefix, .. } => prefix.as_str(),
            };
            // The address is another matter.
            let model = RemoteModel::<(), ()>::new("", "http://localhost", |_| Ok(Vec::new()), |_, _| Ok(Vec::new()));
            if let Err(error) = model.header(&name.value, text).check() {
                table.findings.add(&name.span, format!("`headers`: {error}"));
            }
            if headers[..index].iter().any(|(other, _)| other.value.eq_ignore_ascii_case(&name.value)) {
                table.findings.add(&name.span, format!("`headers`: `{}` is given twice", name.value));
            }
        }
        Headers(headers)
    }

    /// Sends them with a model's requests. What the environment lacks is reported where the file names it.
    pub(super) fn apply<I, O>(&self, mut model: RemoteModel<I, O>, findings: &Findings) -> Option<RemoteModel<I, O>> {
        let mut whole = true;
        for (name, said) in &self.0 {
            let value = match &said.value {
                Said::Text(text) => Ok(text.clone()),
                Said::Variable { name, prefix } => env::var(name).map(|value| format!("{prefix}{value}")).map_err(|error| (name, error)),
            };
            match value {
                Ok(value) => model = model.header(&name.value, &value),
                Err((variable, error)) => {
                    let lacks = match error {
                        VarError::NotPresent => "is not set",
                        VarError::NotUnicode(_) => "is no text",
                    };
                    findings.add(&said.span, format!("`headers`: the variable `{variable}` of the environment {lacks}"));
                    whole = false;
                }
            }
        }
        whole.then_some(model)
    }

    /// Where the file says what a header says.
    pub(super) fn place(&self, name: &str) -> Option<&Span> {
        self.0.iter().find(|(own, _)| own.value == name).map(|(_, said)| &said.span)
    }

    /// Their names, and what they say; of secrets, where they come from.
    pub(super) fn told(&self) -> Vec<(String, String)> {
        let told = |(name, said): &(At<String>, At<Said>)| {
            let said = match &said.value {
                Said::Text(text) => text.clone(),
                Said::Variable { name, prefix } => format!("{prefix}${name}"),
            };
            (name.value.clone(), said)
        };
        self.0.iter().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_is_secret() {
        for name in ["Authorization", "proxy-authorization", "X-Api-Key", "x-goog-api-key", "apikey", "access_token", "Set-Cookie", "X-Auth-Token"] {
            assert!(holds_secret(name), "{name}");
        }
        for name in ["Content-Type", "X-Model", "Keep-Alive", "Author", "tokens", "keyboard"] {
            assert!(!holds_secret(name), "{name}");
        }
    }
}
