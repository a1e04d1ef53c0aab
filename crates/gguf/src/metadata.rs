//! Metadata by key: typed access, and an error that names the key where that fails.

use crate::error::Fault;
use crate::value::{Array, Value};
use std::collections::BTreeMap;

/// The metadata of one file. `Gguf` puts the file's name to its faults.
#[derive(Debug)]
pub(crate) struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    pub(crate) fn new(values: BTreeMap<String, Value>) -> Metadata {
        Metadata(values)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    pub(crate) fn str(&self, key: &str) -> Result<&str, Fault> {
        match self.value(key)? {
            Value::String(text) => Ok(text),
            other => Err(wrong_type(key, other, "string")),
        }
    }

    pub(crate) fn bool(&self, key: &str) -> Result<bool, Fault> {
        match self.value(key)? {
            Value::Bool(truth) => Ok(*truth),
            other => Err(wrong_type(key, other, "bool")),
        }
    }

    /// Converters disagree on the width of floats, so both are taken; f64 is rounded.
    pub(crate) fn f32(&self, key: &str) -> Result<f32, Fault> {
        match self.value(key)? {
            Value::F32(number) => Ok(*number),
            Value::F64(number) => Ok(*number as f32),
            other => Err(wrong_type(key, other, "f32")),
        }
    }

    /// Converters disagree on the width of integers, so every width is taken if the number fits.
    pub(crate) fn integer<T>(&self, key: &str, expected: &'static str) -> Result<T, Fault>
    where
        T: TryFrom<i128>,
    {
        let value = self.value(key)?;
        let found = value
            .integer()
            .ok_or_else(|| wrong_type(key, value, expected))?;
        T::try_from(found).map_err(|_| Fault::OutOfRange {
            key: key.to_owned(),
            found,
            expected,
        })
    }

    pub(crate) fn strings(&self, key: &str) -> Result<&[String], Fault> {
        match self.value(key)? {
            Value::Array(Array::String(texts)) => Ok(texts),
            other => Err(wrong_type(key, other, "array of strings")),
        }
    }

    pub(crate) fn f32s(&self, key: &str) -> Result<&[f32], Fault> {
        match self.value(key)? {
            Value::Array(Array::F32(numbers)) => Ok(numbers),
            other => Err(wrong_type(key, other, "array of f32")),
        }
    }

    pub(crate) fn i32s(&self, key: &str) -> Result<&[i32], Fault> {
        match self.value(key)? {
            Value::Array(Array::I32(numbers)) => Ok(numbers),
            other => Err(wrong_type(key, other, "array of i32")),
        }
    }

    pub(crate) fn u32s(&self, key: &str) -> Result<&[u32], Fault> {
        match self.value(key)? {
            Value::Array(Array::U32(numbers)) => Ok(numbers),
            other => Err(wrong_type(key, other, "array of u32")),
        }
    }

    fn value(&self, key: &str) -> Result<&Value, Fault> {
        self.get(key).ok_or_else(|| Fault::MissingKey {
            key: key.to_owned(),
        })
    }
}

fn wrong_type(key: &str, found: &Value, expected: &'static str) -> Fault {
    Fault::WrongType {
        key: key.to_owned(),
        found: found.type_name(),
        expected,
    }
}
