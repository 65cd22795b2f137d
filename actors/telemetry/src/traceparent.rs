//! The header `traceparent` of the W3C's Trace Context: `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.

use std::{fmt, str::FromStr};

use millstream_runtime::TraceContext;

/// A record's trace, as a header carries it.
///
/// ```
/// use millstream_runtime::Record;
/// use millstream_telemetry::Traceparent;
///
/// let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let Traceparent(sender) = header.parse()?;
/// assert!(sender.sampled, "the sender follows it, and so will the pipeline");
/// let record = Record::new("payload").trace(sender);
/// assert_eq!(Traceparent(sender).to_string(), header);
/// # Ok::<(), millstream_telemetry::TraceparentError>(())
/// ```
///
/// Within a pipeline, `Header::trace` is what to send along with a request of one's own. Of the flags, only the sender's
/// decision is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Traceparent(pub TraceContext);

/// What is wrong with a `traceparent`. The specification wants a header that is wrong to be treated as none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceparentError {
    /// It has not the form of one.
    #[error("a traceparent is version-trace-span-flags, in 2, 32, 16 and 2 hexadecimal digits in lower case")]
    Form,
    /// Its version is the one that there is none of.
    #[error("there is no traceparent of version ff")]
    Version,
    /// It names no trace or no span.
    #[error("a traceparent's trace and span are not 0")]
    Zero,
}

impl FromStr for Traceparent {
    type Err = TraceparentError;

    fn from_str(text: &str) -> Result<Self, TraceparentError> {
        let text = text.trim_matches([' ', '\t']);
        let mut parts = text.splitn(5, '-');
        let mut part = |digits| parts.next().and_then(|part| hex(part, digits)).ok_or(TraceparentError::Form);
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        if version == 0xFF {
            return Err(TraceparentError::Version);
        }
        // Later versions may have more behind another dash.
        if version == 0 && parts.next().is_some() {
            return Err(TraceparentError::Form);
        }
        let span = u64::try_from(span).map_err(|_| TraceparentError::Form)?;
        if trace == 0 || span == 0 {
            return Err(TraceparentError::Zero);
        }
        Ok(Traceparent(TraceContext { trace, span, sampled: flags & 1 == 1 }))
    }
}

/// Digits in lower case only, and no sign, which `from_str_radix` would take.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let fits = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TraceContext { trace, span, sampled } = self.0;
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_the_specification_says() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let read = |text: String| text.parse::<Traceparent>();
        let context = |sampled| Traceparent(TraceContext { trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, span: 0xb7ad_6b71_6920_3331, sampled });
        assert_eq!(read(format!("00-{trace}-{span}-01")), Ok(context(true)));
        assert_eq!(read(format!(" 00-{trace}-{span}-02\t")), Ok(context(false)), "other flags are not this one");
        assert_eq!(read(format!("cc-{trace}-{span}-01-what-comes")), Ok(context(true)), "later versions may have more");
        assert_eq!(read(format!("cc-{trace}-{span}-01.what")), Err(TraceparentError::Form));
        assert_eq!(read(format!("00-{trace}-{span}-01-")), Err(TraceparentError::Form));
        assert_eq!(read(format!("ff-{trace}-{span}-01")), Err(TraceparentError::Version));
        assert_eq!(read(format!("00-{trace}-{:016}-01", 0)), Err(TraceparentError::Zero));
        assert_eq!(read(format!("00-{:032}-{span}-01", 0)), Err(TraceparentError::Zero));
        for wrong in [String::new(), "00".into(), format!("00-{}-{span}-01", trace.to_uppercase()), format!("00-{trace}-+{}-01", &span[1..])] {
            assert_eq!(read(wrong), Err(TraceparentError::Form));
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for sampled in [false, true] {
            let context = Traceparent(TraceContext { trace: 5, span: u64::MAX, sampled });
            assert_eq!(context.to_string().parse(), Ok(context));
        }
    }
}
