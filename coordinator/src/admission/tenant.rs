//! On whose behalf a request is made.

use std::fmt;
use std::sync::Arc;

use tonic::metadata::MetadataMap;

use crate::convert::Invalid;

/// The metadata key that names the tenant.
pub(crate) const TENANT_HEADER: &str = "x-lava-tenant";

/// Most bytes of a name.
const NAME_BYTES_MAX: usize = 64;

/// Whoever requests are counted and take turns for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tenant(Arc<str>);

impl Tenant {
    /// A tenant of this name, if it can be one.
    pub(crate) fn named(name: &str) -> Option<Tenant> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_fit);
        fits.then(|| Tenant(name.into()))
    }

    /// Whom the client's metadata names, or the tenant `default`.
    ///
    /// # Errors
    /// The client's header holds no name.
    pub(crate) fn of(metadata: &MetadataMap) -> Result<Tenant, Invalid> {
        match metadata.get(TENANT_HEADER) {
            None => Ok(Tenant("default".into())),
            Some(header) => {
                let name = header.to_str().map_err(|_| Invalid::Tenant)?;
                Tenant::named(name).ok_or(Invalid::Tenant)
            }
        }
    }

    /// All that are too many to be remembered one by one. No client can name it.
    pub(crate) fn others() -> Tenant {
        Tenant("(others)".into())
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    #[test]
    fn a_name_is_a_few_plain_characters() {
        for name in ["a", "team-a", "Team_7.eu", &"x".repeat(64)] {
            assert_eq!(Tenant::named(name).unwrap().to_string(), name);
        }
        for name in [
            "",
            " a",
            "a b",
            "a/b",
            "é",
            "(others)",
            "a\n",
            &"x".repeat(65),
        ] {
            assert_eq!(Tenant::named(name), None, "{name:?}");
        }
    }

    #[test]
    fn without_a_header_it_is_the_default_one_and_a_bad_one_is_refused() {
        let mut metadata = MetadataMap::new();
        assert_eq!(Tenant::of(&metadata).unwrap().to_string(), "default");
        metadata.insert(TENANT_HEADER, "team-a".parse().unwrap());
        assert_eq!(Tenant::of(&metadata).unwrap().to_string(), "team-a");
        metadata.insert(TENANT_HEADER, "two words".parse().unwrap());
        assert!(Tenant::of(&metadata).is_err());
        let bytes = MetadataValue::try_from(&b"\xff"[..]).unwrap();
        metadata.insert(TENANT_HEADER, bytes);
        assert!(Tenant::of(&metadata).is_err());
    }
}
