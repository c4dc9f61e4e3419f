//! Query parameters.

use api::status::Refusal;
use api::validate::go_number_error;

/// The decoded parameters of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string.
    pub(crate) fn parse(text: &str) -> Self {
        Self(base::query::pairs(text))
    }

    /// The first value of a parameter, or "".
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Whether a parameter is given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// All values of a parameter.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is given and is not false: Kubernetes takes everything else as true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.has(name) && self.get(name) != "0" && !self.get(name).eq_ignore_ascii_case("false")
    }

    /// A parameter as a number, if it is given; below zero there is none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse::<i64>()
                .map(|number| Some(u64::try_from(number).unwrap_or(0)))
                .map_err(|error| Refusal::bad_request(go_number_error("ParseInt", text, &error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&command=sh&command=-c+x&watch=true&bad=%zz");
        assert_eq!(query.get("labelSelector"), "a=b,c");
        assert_eq!(Query::parse("command=-c+x").get("command"), "-c x");
        assert!(query.flag("watch") && !query.flag("other"));
        let flags = Query::parse("a=&b=0&c=False&d=yes");
        assert_eq!(["a", "b", "c", "d"].map(|name| flags.flag(name)), [true, false, false, true]);
        assert_eq!(query.get("bad"), "%zz");
        assert!(query.number("labelSelector").is_err());
        assert_eq!(Query::parse("a=1&b=2&a=3").values("a").collect::<Vec<_>>(), ["1", "3"]);
    }
}
