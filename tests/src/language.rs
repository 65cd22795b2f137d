//! The project's own model, which names the language of a source file, and what ONNX Runtime computes of it.

use millstream::{Error, Model, Session, Tensor};

/// The model file.
pub const MODEL: &[u8] = include_bytes!("../../examples/language-model/language.onnx");

/// How many bytes of a file the model sees.
pub const WINDOW: usize = 2048;

/// What stands after the end of a shorter file.
const PADDING: i32 = 256;

/// A snippet and its expected result.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The snippet's language.
    pub label: String,
    /// The snippet.
    pub text: String,
    /// The model's probabilities, by label.
    pub probabilities: Vec<f32>,
}

/// The labels in the order of the probabilities, and all samples.
pub fn fixture() -> (Vec<String>, Vec<Sample>) {
    let text = include_str!("../../examples/language-model/fixture.json");
    let json: serde_json::Value = serde_json::from_str(text).expect("the fixture is JSON");
    let strings = |v: &serde_json::Value| v.as_str().expect("a string").to_owned();
    let labels = json["labels"].as_array().expect("a list").iter().map(strings).collect();
    let sample = |s: &serde_json::Value| Sample {
        label: strings(&s["label"]),
        text: strings(&s["text"]),
        probabilities: s["probabilities"].as_array().expect("a list").iter().map(|p| p.as_f64().expect("a number") as f32).collect(),
    };
    (labels, json["samples"].as_array().expect("a list").iter().map(sample).collect())
}

/// The model's input for these texts, a row each.
pub fn windows<'t>(texts: impl IntoIterator<Item = &'t str>) -> Tensor {
    let mut values = Vec::new();
    for text in texts {
        let end = values.len() + WINDOW;
        values.extend(text.bytes().take(WINDOW).map(i32::from));
        values.resize(end, PADDING);
    }
    Tensor::from_slice(&[values.len() / WINDOW, WINDOW], &values).expect("whole rows")
}

/// Loads the model in a session.
pub fn open(session: &Session) -> Result<Model, Error> {
    session.from_bytes(MODEL.to_vec())
}

/// The elements of a tensor of f32.
pub fn floats(t: &Tensor) -> Vec<f32> {
    t.as_slice::<f32>().expect("a tensor of f32").to_vec()
}

/// The bits of a tensor of f32.
pub fn bits(t: &Tensor) -> Vec<u32> {
    floats(t).iter().map(|x| x.to_bits()).collect()
}
