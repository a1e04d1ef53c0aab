//! The settings of who is let in, and who waits.

use std::collections::BTreeMap;

use lava_node::{ConfigError, config};
use serde::Deserialize;

use super::contradiction;
use crate::admission::{Quota, Rate, Tenant};

/// Who is let in, and who waits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionConfig {
    /// Most answers that wait for room; 0: whoever finds none is refused at once.
    pub waiting_max: u32,
    /// Longest wait for room, milliseconds; at most half of the request's time.
    pub wait_max_ms: u64,
    /// Most tenants without a section of their own that are told apart.
    pub tenants_max: u32,
    /// What a tenant may use that has no section of its own.
    pub tenant_default: TenantConfig,
    /// By name. What a section leaves out is as in `tenant_default`.
    pub tenants: BTreeMap<String, TenantConfig>,
}

/// What a tenant may use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantConfig {
    /// Turns that it gets where others get one; absent: 1.
    pub weight: Option<u32>,
    /// Most answers under way or waiting; absent: no bound of its own.
    pub flights_max: Option<u32>,
    /// Tokens per second, prompts and answers together; absent: no bound.
    pub tokens_per_second: Option<u64>,
    /// Tokens that it may use at once after a pause; present if `tokens_per_second` is.
    pub tokens_burst: Option<u64>,
}

/// Who is let in, and who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdmissionPlan {
    pub(crate) waiting_max: u32,
    pub(crate) tenants_max: u32,
    pub(crate) tenant_default: Quota,
    pub(crate) tenants: BTreeMap<Tenant, Quota>,
}

impl Default for AdmissionConfig {
    fn default() -> AdmissionConfig {
        AdmissionConfig {
            waiting_max: 256,
            wait_max_ms: 10_000,
            tenants_max: 1024,
            tenant_default: TenantConfig::default(),
            tenants: BTreeMap::new(),
        }
    }
}

impl AdmissionConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The operator wrote a bound of zero, a name that is none, or half of a rate.
    pub(super) fn to_plan(&self) -> Result<AdmissionPlan, ConfigError> {
        config::at_least(&[
            ("admission.wait_max_ms", self.wait_max_ms, 1),
            ("admission.tenants_max", self.tenants_max.into(), 1),
        ])?;
        let default = &self.tenant_default;
        let mut tenants = BTreeMap::new();
        for (name, tenant) in &self.tenants {
            let key = format!("admission.tenants.{name}");
            let expected = "a name of 1 to 64 letters, digits, dots, dashes and underscores";
            let known = Tenant::named(name);
            let known = known.ok_or_else(|| contradiction(&key, &"no name", &expected))?;
            tenants.insert(known, quota(&key, &tenant.or(default))?);
        }
        Ok(AdmissionPlan {
            waiting_max: self.waiting_max,
            tenants_max: self.tenants_max,
            tenant_default: quota("admission.tenant_default", default)?,
            tenants,
        })
    }
}

impl TenantConfig {
    fn or(&self, default: &TenantConfig) -> TenantConfig {
        TenantConfig {
            weight: self.weight.or(default.weight),
            flights_max: self.flights_max.or(default.flights_max),
            tokens_per_second: self.tokens_per_second.or(default.tokens_per_second),
            tokens_burst: self.tokens_burst.or(default.tokens_burst),
        }
    }
}

fn quota(key: &str, tenant: &TenantConfig) -> Result<Quota, ConfigError> {
    let numbers = [
        ("weight", tenant.weight.map(u64::from)),
        ("flights_max", tenant.flights_max.map(u64::from)),
        ("tokens_per_second", tenant.tokens_per_second),
        ("tokens_burst", tenant.tokens_burst),
    ];
    for (name, value) in numbers {
        if value == Some(0) {
            let key = format!("{key}.{name}");
            return Err(contradiction(&key, &0, &"at least 1"));
        }
    }
    let tokens = match (tenant.tokens_per_second, tenant.tokens_burst) {
        (Some(per_second), Some(burst)) => Some(Rate { per_second, burst }),
        (None, None) => None,
        (Some(_), None) => {
            let key = format!("{key}.tokens_burst");
            let expected = "a number of tokens, as there is `tokens_per_second`";
            return Err(contradiction(&key, &"missing", &expected));
        }
        (None, Some(_)) => {
            let key = format!("{key}.tokens_per_second");
            let expected = "a number of tokens, as there is `tokens_burst`";
            return Err(contradiction(&key, &"missing", &expected));
        }
    };
    Ok(Quota {
        weight: tenant.weight.unwrap_or(1),
        flights_max: tenant.flights_max,
        tokens,
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use lava_node::Override;

    use super::*;
    use crate::config::Config;

    fn with(overrides: &[&str]) -> Config {
        let overrides: Vec<Override> = overrides.iter().map(|o| o.parse().unwrap()).collect();
        config::load(None, &overrides).unwrap()
    }

    #[track_caller]
    fn check(overrides: &[&str], expected: Expect) {
        let error = with(overrides).into_plan().unwrap_err();
        expected.assert_eq(&error.to_string());
    }

    #[test]
    fn the_sample_file_states_every_bound() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = std::fs::read_to_string(root.join("deploy/config/coordinator.toml")).unwrap();
        for key in ["waiting_max", "wait_max_ms", "tenants_max"] {
            assert!(text.contains(&format!("\n{key} = ")), "{key} is missing");
        }
    }

    #[test]
    fn tenants_are_checked_and_take_what_they_leave_out_from_the_default() {
        let plan = with(&[
            "admission.tenant_default.flights_max=4",
            "admission.tenants.team-a.weight=3",
            "admission.tenants.team-b.flights_max=9",
            "admission.tenants.team-b.tokens_per_second=10",
            "admission.tenants.team-b.tokens_burst=100",
        ]);
        let admission = plan.into_plan().unwrap().admission;
        let tenant = |name| admission.tenants[&Tenant::named(name).unwrap()];
        assert_eq!(
            (tenant("team-a").weight, tenant("team-a").flights_max),
            (3, Some(4))
        );
        assert_eq!(
            (tenant("team-b").weight, tenant("team-b").flights_max),
            (1, Some(9))
        );
        assert_eq!(tenant("team-b").tokens.unwrap().burst, 100);
        assert_eq!(admission.tenant_default.tokens, None);
        check(
            &["admission.tenants.a.weight=0"],
            expect!["`admission.tenants.a.weight` is 0, expected at least 1"],
        );
        check(
            &["admission.tenant_default.tokens_per_second=5"],
            expect![
                "`admission.tenant_default.tokens_burst` is missing, expected a number of tokens, as there is `tokens_per_second`"
            ],
        );
        let mut odd = Config::default();
        let tenants = &mut odd.admission.tenants;
        tenants.insert("two words".to_owned(), TenantConfig::default());
        expect!["`admission.tenants.two words` is no name, expected a name of 1 to 64 letters, digits, dots, dashes and underscores"]
            .assert_eq(&odd.into_plan().unwrap_err().to_string());
        // Nobody waits then.
        with(&["admission.waiting_max=0"]).into_plan().unwrap();
    }
}
