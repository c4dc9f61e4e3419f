//! What a claim asks for: requests, each with alternatives of which the first that can be had counts.

use api::Object;
use api::resource::{
    CapacityRequirements, DeviceClass, DeviceRequest, DeviceSelector, DeviceSubRequest, DeviceToleration,
    ExactDeviceRequest, ResourceClaim,
};
use std::sync::Arc;

/// How many devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    All,
    Exactly(usize),
}

/// One request, or one alternative of it.
#[derive(Debug)]
pub(super) struct Request {
    /// `request`, or `request/alternative`.
    pub(super) name: String,
    /// The request alone.
    pub(super) base: String,
    pub(super) class: Arc<DeviceClass>,
    pub(super) selectors: Vec<DeviceSelector>,
    pub(super) tolerations: Vec<DeviceToleration>,
    pub(super) capacity: Option<CapacityRequirements>,
    pub(super) count: Count,
    /// It only looks after devices that others have.
    pub(super) admin: bool,
}

impl Request {
    /// So many of a class.
    pub(super) fn plain(name: &str, class: &Arc<DeviceClass>, count: usize) -> Self {
        Self {
            name: name.to_owned(),
            base: name.to_owned(),
            class: class.clone(),
            selectors: Vec::new(),
            tolerations: Vec::new(),
            capacity: None,
            count: Count::Exactly(count),
            admin: false,
        }
    }
}

/// A claim that nothing was given to yet.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) claim: Arc<ResourceClaim>,
    /// The alternatives of each request.
    pub(super) requests: Vec<Vec<Request>>,
}

/// Finds a class by its name.
pub(crate) type Classes<'a> = &'a dyn Fn(&str) -> Option<Arc<DeviceClass>>;

impl Asked {
    /// What a claim asks for, or why nobody can give it.
    pub(super) fn of(claim: &Arc<ResourceClaim>, classes: Classes<'_>) -> Result<Self, String> {
        let devices = claim.spec.devices.as_ref();
        let requests = devices.into_iter().flat_map(|devices| devices.requests.iter().flatten());
        let whose = path(claim);
        let requests =
            requests.map(|request| alternatives(&whose, request, classes)).collect::<Result<_, _>>()?;
        Ok(Self { claim: claim.clone(), requests })
    }

    /// Some request has alternatives.
    pub(super) fn has_choice(&self) -> bool {
        self.requests.iter().any(|request| request.len() > 1)
    }
}

/// `namespace/name`.
pub(super) fn path(claim: &ResourceClaim) -> String {
    format!("{}/{}", claim.namespace(), claim.name())
}

fn alternatives(whose: &str, of: &DeviceRequest, classes: Classes<'_>) -> Result<Vec<Request>, String> {
    if let Some(exactly) = &of.exactly {
        return Ok(vec![exact(&of.name, exactly, classes)?]);
    }
    let several = of.first_available.as_deref().unwrap_or_default();
    if several.is_empty() {
        return Err(format!("resource claim {whose}, request {}: unknown request type", of.name));
    }
    several.iter().map(|one| alternative(&of.name, one, classes)).collect()
}

fn class(request: &str, name: &str, classes: Classes<'_>) -> Result<Arc<DeviceClass>, String> {
    classes(name).ok_or_else(|| format!("request {request}: device class {name} does not exist"))
}

fn count(mode: Option<&str>, count: Option<i64>) -> Count {
    match mode {
        Some("All") => Count::All,
        _ => Count::Exactly(usize::try_from(count.unwrap_or(1)).unwrap_or(usize::MAX)),
    }
}

fn exact(name: &str, of: &ExactDeviceRequest, classes: Classes<'_>) -> Result<Request, String> {
    Ok(Request {
        class: class(name, &of.device_class_name, classes)?,
        name: name.to_owned(),
        base: name.to_owned(),
        selectors: of.selectors.clone().unwrap_or_default(),
        tolerations: of.tolerations.clone().unwrap_or_default(),
        capacity: of.capacity.clone(),
        count: count(of.allocation_mode.as_deref(), of.count),
        admin: of.admin_access == Some(true),
    })
}

fn alternative(base: &str, of: &DeviceSubRequest, classes: Classes<'_>) -> Result<Request, String> {
    let name = format!("{base}/{}", of.name);
    Ok(Request {
        class: class(&name, &of.device_class_name, classes)?,
        name,
        base: base.to_owned(),
        selectors: of.selectors.clone().unwrap_or_default(),
        tolerations: of.tolerations.clone().unwrap_or_default(),
        capacity: of.capacity.clone(),
        count: count(of.allocation_mode.as_deref(), of.count),
        admin: false,
    })
}
