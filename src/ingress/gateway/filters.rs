//! Filters of routes.

use super::rules::Resolving;
use super::types::{CorsFilter, Filter, MirrorFilter, Modifier, Named, PathModifier, RedirectFilter};
use crate::cors::{Cors, Names, Origin};
use crate::rules::{Filters, HeaderChanges, Mirror, Path, PathChange, Redirect};
use http::{HeaderName, HeaderValue, StatusCode};

/// What filters say together.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) filters: Filters,
    pub(super) redirect: Option<Redirect>,
}

/// Reads filters; one that is not served is a mistake, since a route without it would be another route.
pub(super) fn read(
    all: &[Filter],
    path: &Path,
    resolving: &mut Resolving<'_, '_>,
) -> Result<Changes, String> {
    let mut changes = Changes::default();
    for filter in all {
        let missing = || format!("a filter of type {} says nothing", filter.kind);
        match filter.kind.as_str() {
            "RequestHeaderModifier" => {
                let modifier = filter.request_header_modifier.as_ref().ok_or_else(missing)?;
                modify(&mut changes.filters.request, modifier)?;
            }
            "ResponseHeaderModifier" => {
                let modifier = filter.response_header_modifier.as_ref().ok_or_else(missing)?;
                modify(&mut changes.filters.response, modifier)?;
            }
            "RequestRedirect" => {
                let asked = filter.request_redirect.as_ref().ok_or_else(missing)?;
                changes.redirect = Some(redirect(asked, path)?);
            }
            "URLRewrite" => {
                let rewrite = filter.url_rewrite.as_ref().ok_or_else(missing)?;
                let hostname = rewrite.hostname.as_ref().map(HeaderValue::try_from).transpose();
                changes.filters.hostname = hostname.map_err(|_| "a hostname is none".to_owned())?;
                changes.filters.path = change(rewrite.path.as_ref(), path)?;
            }
            "RequestMirror" => {
                let asked = filter.request_mirror.as_ref().ok_or_else(missing)?;
                changes.filters.mirrors.extend(mirror(asked, resolving));
            }
            "CORS" => {
                let asked = filter.cors.as_ref().ok_or_else(missing)?;
                changes.filters.cors = Some(Box::new(cors(asked)?));
            }
            other => return Err(format!("filters of type {other} are not served")),
        }
    }
    Ok(changes)
}

fn modify(changes: &mut HeaderChanges, modifier: &Modifier) -> Result<(), String> {
    let name = |text: &str| text.parse::<HeaderName>().map_err(|_| format!("{text:?} is no header"));
    let pair = |named: &Named| {
        let value = HeaderValue::from_str(&named.value);
        Ok::<_, String>((name(&named.name)?, value.map_err(|_| format!("{:?} is no value", named.value))?))
    };
    for named in &modifier.set {
        changes.set.push(pair(named)?);
    }
    for named in &modifier.add {
        changes.add.push(pair(named)?);
    }
    for text in &modifier.remove {
        changes.remove.push(name(text)?);
    }
    Ok(())
}

/// How long an answer to a question before a request holds where that is not said.
const MAX_AGE_S: u32 = 5;

fn cors(asked: &CorsFilter) -> Result<Cors, String> {
    Ok(Cors {
        origins: asked.allow_origins.iter().map(|text| Origin::read(text)).collect::<Result<_, _>>()?,
        credentials: asked.allow_credentials == Some(true),
        methods: Names::read(&asked.allow_methods)?,
        headers: Names::read(&asked.allow_headers)?,
        exposed: Names::read(&asked.expose_headers)?,
        max_age_s: asked.max_age.unwrap_or(MAX_AGE_S),
    })
}

fn redirect(asked: &RedirectFilter, path: &Path) -> Result<Redirect, String> {
    let code = StatusCode::from_u16(asked.status_code.unwrap_or(302));
    let code = code.ok().filter(StatusCode::is_redirection).ok_or("a status is none of a redirect")?;
    Ok(Redirect {
        code,
        scheme: asked.scheme.clone(),
        hostname: asked.hostname.clone(),
        port: asked.port,
        path: change(asked.path.as_ref(), path)?,
    })
}

fn change(asked: Option<&PathModifier>, path: &Path) -> Result<Option<PathChange>, String> {
    let Some(asked) = asked else { return Ok(None) };
    match (&asked.replace_full_path, &asked.replace_prefix_match, path) {
        (Some(full), None, _) => Ok(Some(PathChange::Full(full.clone()))),
        (None, Some(to), Path::Prefix(matched)) => {
            Ok(Some(PathChange::Prefix { matched: matched.len(), to: to.clone() }))
        }
        (None, Some(_), Path::Exact(_) | Path::Pattern(_)) => {
            Err("a prefix is replaced where none is matched".to_owned())
        }
        _ => Err("a path is to become nothing, or two things".to_owned()),
    }
}

fn mirror(asked: &MirrorFilter, resolving: &mut Resolving<'_, '_>) -> Option<Mirror> {
    let backend = resolving.backend(&asked.backend_ref)?;
    let (share, of) = match (&asked.fraction, asked.percent) {
        (Some(fraction), _) => (fraction.numerator, fraction.denominator.unwrap_or(100).max(1)),
        (None, Some(percent)) => (percent, 100),
        (None, None) => (1, 1),
    };
    Some(Mirror { backend, of, share })
}
