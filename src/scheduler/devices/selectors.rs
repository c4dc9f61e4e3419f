//! Which devices a class or request means: CEL over the variable `device`.

use super::ledger::amount;
use api::resource::{Device, DeviceAttribute, DeviceSelector};
use cel::devices::{self, MOST_COST};
use cel::{Program, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// How many compiled expressions are kept.
const PROGRAMS: usize = 256;

/// Expressions that were compiled lately, or why they cannot be.
#[derive(Debug, Default)]
pub(crate) struct Programs(Mutex<HashMap<String, Compiled>>);

type Compiled = Arc<Result<Program, String>>;

fn compile(expression: &str) -> Result<Program, String> {
    let mut program = devices::compile(expression)?;
    program.forget_source();
    Ok(program)
}

impl Programs {
    fn of(&self, expression: &str) -> Compiled {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = known.get(expression) {
            return compiled.clone();
        }
        if known.len() >= PROGRAMS {
            known.clear();
        }
        let compiled = Arc::new(compile(expression));
        known.insert(expression.to_owned(), compiled.clone());
        compiled
    }

    /// Whether all selectors mean a device; `whose` is for what is told of one that cannot say.
    pub(super) fn mean(
        &self,
        selectors: &[DeviceSelector],
        (driver, device): (&str, &Device),
        whose: &str,
    ) -> Result<bool, String> {
        let mut bindings = None;
        for (at, selector) in selectors.iter().enumerate() {
            let expression = selector.cel.as_ref().map_or("", |cel| cel.expression.as_str());
            let compiled = self.of(expression);
            let program = compiled
                .as_ref()
                .as_ref()
                .map_err(|why| format!("{whose}: selector #{at}: CEL compile error: {why}"))?;
            let told = |why: String| format!("{whose}: selector #{at}: CEL runtime error: {why}");
            let bindings = match &bindings {
                Some(known) => known,
                None => bindings.insert([described(driver, device).map_err(told)?]),
            };
            match program.evaluate(bindings, MOST_COST).0 {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(other) => {
                    let of = other.type_of();
                    return Err(told(format!("CEL result of type {of} could not be converted to bool")));
                }
                Err(error) => return Err(told(error.to_string())),
            }
        }
        Ok(true)
    }
}

fn attribute(of: &DeviceAttribute) -> Result<Value<'static>, String> {
    match (of.int, of.bool, &of.string, &of.version) {
        (Some(int), ..) => Ok(Value::Int(int)),
        (_, Some(bool), ..) => Ok(Value::Bool(bool)),
        (.., Some(text), _) => Ok(Value::text(text.as_str())),
        (.., Some(version)) => Value::semver(version).map_err(|why| format!("parse semantic version: {why}")),
        _ => Err("unsupported attribute value".to_owned()),
    }
}

/// Values by the domains of their names; those without one are of the driver's.
fn by_domain<'v>(
    driver: &str,
    named: impl Iterator<Item = (&'v String, Result<Value<'static>, String>)>,
) -> Result<Value<'static>, String> {
    let mut domains: BTreeMap<Arc<str>, Vec<(Arc<str>, Value<'static>)>> = BTreeMap::new();
    for (name, value) in named {
        let value = value.map_err(|why| format!("attribute {name}: {why}"))?;
        let (domain, id) = name.split_once('/').unwrap_or((driver, name));
        domains.entry(domain.into()).or_default().push((id.into(), value));
    }
    Ok(Value::total_map(domains.into_iter().map(|(domain, values)| (domain, Value::map(values)))))
}

/// `device` as expressions see it.
fn described(driver: &str, device: &Device) -> Result<Value<'static>, String> {
    let attributes = device.attributes.iter().flatten().map(|(name, of)| (name, attribute(of)));
    let capacity = device
        .capacity
        .iter()
        .flatten()
        .map(|(name, capacity)| (name, Ok(Value::quantity(amount(&capacity.value)))));
    let shared = device.allow_multiple_allocations == Some(true);
    Ok(Value::map([
        ("driver".into(), Value::text(driver)),
        ("allowMultipleAllocations".into(), Value::Bool(shared)),
        ("attributes".into(), by_domain(driver, attributes)?),
        ("capacity".into(), by_domain(driver, capacity)?),
    ]))
}
