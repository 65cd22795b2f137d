//! Tensors whose data lies in files beside the model.

use crate::{ExternalError, LoadError, wire::Reader};
use alloc::{boxed::Box, sync::Arc};
use core::error::Error;
use millstream_tensor::WeightSource;

/// Access to the files beside a model; std code supplies it. Closures of the method's form implement it.
pub trait ExternalData {
    /// Opens the file at `location`, a relative path with `/` between its parts and without `..`. The reader has checked
    /// that; whoever opens files has to see to links himself.
    fn open(&self, location: &str) -> Result<Arc<dyn WeightSource>, Box<dyn Error + Send + Sync>>;
}

impl<F: Fn(&str) -> Result<Arc<dyn WeightSource>, Box<dyn Error + Send + Sync>>> ExternalData for F {
    fn open(&self, location: &str) -> Result<Arc<dyn WeightSource>, Box<dyn Error + Send + Sync>> {
        self(location)
    }
}

/// Where a tensor's external data lies.
#[derive(Debug, Default)]
pub(crate) struct Place<'a> {
    pub(crate) location: &'a str,
    pub(crate) offset: u64,
    pub(crate) length: Option<u64>,
}

impl<'a> Place<'a> {
    /// Reads one entry (a key and its value) of `external_data`.
    pub(crate) fn entry(&mut self, entry: Reader<'a>) -> Result<(), LoadError> {
        let (mut key, mut value) = ("", "");
        for field in entry {
            let field = field?;
            match field.number {
                1 => key = field.text()?,
                2 => value = field.text()?,
                _ => {}
            }
        }
        let number = || value.parse::<u64>().map_err(|_| self.error(ExternalError::Range));
        match key {
            "location" => self.location = value,
            "offset" => self.offset = number()?,
            "length" => self.length = Some(number()?),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn error(&self, error: ExternalError) -> LoadError {
        LoadError::External { location: self.location.into(), error }
    }

    /// An error if the location could lead out of the model's folder on any system.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let inside = |part: &str| !part.is_empty() && part != "..";
        if self.location.contains(['\\', ':', '\0']) || !self.location.split('/').all(inside) {
            return Err(self.error(ExternalError::Location));
        }
        Ok(())
    }

    /// The bytes of the file that are the tensor's `needed` bytes.
    pub(crate) fn range(&self, file: &dyn WeightSource, needed: usize) -> Result<core::ops::Range<usize>, LoadError> {
        let start = usize::try_from(self.offset).ok();
        let end = start.and_then(|s| s.checked_add(needed)).filter(|&e| e <= file.bytes().len());
        match (start, end) {
            (Some(start), Some(end)) if self.length.is_none_or(|l| l == needed as u64) => Ok(start..end),
            _ => Err(self.error(ExternalError::Range)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_stay_inside_the_folder() {
        for location in ["weights.bin", "a/b.bin", "./weights.bin", "..weights", "a/..b"] {
            assert!(Place { location, ..Place::default() }.check().is_ok(), "{location}");
        }
        for location in ["", "/etc/passwd", "../x", "a/../../x", "..", "a/..", "C:\\x", "C:x", "\\\\host\\x", "a\\..\\..\\x", "a//b", "a/", "x\0"] {
            assert!(Place { location, ..Place::default() }.check().is_err(), "{location}");
        }
    }

    #[test]
    fn ranges_stay_inside_the_file() {
        let file: &'static [u8] = &[0; 100];
        let place = |offset, length| Place { location: "x", offset, length };
        assert_eq!(place(60, Some(40)).range(&file, 40).unwrap(), 60..100);
        assert_eq!(place(0, None).range(&file, 40).unwrap(), 0..40);
        assert!(place(61, None).range(&file, 40).is_err());
        assert!(place(0, Some(41)).range(&file, 40).is_err());
        assert!(place(u64::MAX, None).range(&file, 40).is_err());
    }
}
