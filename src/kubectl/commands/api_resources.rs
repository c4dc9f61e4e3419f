//! `kubectl api-resources`.

use crate::args::ApiResources;
use crate::discovery::Resource;
use crate::error::Error;
use crate::output::{say, tabs};
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: &ApiResources) -> Result<(), Error> {
    let fits = |resource: &&Resource| {
        resource.preferred
            && args.api_group.as_ref().is_none_or(|group| resource.group == *group)
            && args.namespaced.is_none_or(|namespaced| resource.namespaced == namespaced)
    };
    let mut resources: Vec<&Resource> = session.current().await?.0.iter().filter(fits).collect();
    resources.sort_by_key(|resource| (&resource.group, &resource.plural));
    if args.output.as_deref() == Some("name") {
        return resources.iter().try_for_each(|resource| say(&format!("{}\n", resource.qualified())));
    }
    let wide = args.output.as_deref() == Some("wide");
    let mut text = String::new();
    if !args.no_headers {
        text.push_str("NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND");
        text.push_str(if wide { "\tVERBS\tCATEGORIES\n" } else { "\n" });
    }
    for resource in resources {
        let mut cells = vec![
            resource.plural.clone(),
            resource.short_names.join(","),
            resource.api_version(),
            resource.namespaced.to_string(),
            resource.kind.clone(),
        ];
        if wide {
            cells.extend([resource.verbs.join(","), resource.categories.join(",")]);
        }
        text.push_str(&format!("{}\n", cells.join("\t")));
    }
    say(&tabs::align(&text, 6, 3))
}
