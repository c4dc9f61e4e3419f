//! Links in HTML that comes through the proxy: those that lead to the same host lead through the proxy.
//! What is no such link is handed on byte by byte, in pieces as they come.

use std::io::{self, Write};

/// A tag that is larger is handed on as it is: so much is kept of one whose end is still to come.
const TAG_BYTES: usize = 64 << 10;

/// Attributes that are links, by the elements that have them.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text up to their end.
const RAW: [&str; 8] = ["iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"];

/// What the bytes that come next are.
#[derive(Clone, Copy)]
enum State {
    Markup,
    Comment,
    /// The content of such an element.
    Raw(&'static str),
}

/// Writes HTML on with its links rewritten by `link`, which gives the new form of those that change.
pub(super) struct Rewriter<W, L> {
    inner: W,
    link: L,
    state: State,
    pending: Vec<u8>,
}

impl<W: Write, L: Fn(&str) -> Option<String>> Rewriter<W, L> {
    pub(super) fn new(inner: W, link: L) -> Self {
        Self { inner, link, state: State::Markup, pending: Vec::new() }
    }

    pub(super) fn get_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    /// Hands on what is left, and gives back what was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&self.pending)?;
        Ok(self.inner)
    }

    /// Hands on the first bytes.
    fn pass(&mut self, count: usize) -> io::Result<()> {
        self.inner.write_all(&self.pending[..count])?;
        self.pending.drain(..count);
        Ok(())
    }

    /// Hands on all up to an end, of which a part may be at the end of what has come. Whether it was there.
    fn pass_until(&mut self, end: &[u8]) -> io::Result<bool> {
        let found = self.pending.windows(end.len()).position(|part| part.eq_ignore_ascii_case(end));
        self.pass(found.unwrap_or_else(|| (self.pending.len() + 1).saturating_sub(end.len())))?;
        Ok(found.is_some())
    }

    /// One step; `false` if more has to come before the next.
    fn step(&mut self) -> io::Result<bool> {
        let ended = match self.state {
            State::Markup => return self.markup(),
            State::Comment => self.pass_until(b"-->")?,
            State::Raw(name) => self.pass_until(format!("</{name}").as_bytes())?,
        };
        if ended {
            self.state = State::Markup;
            // So that it is not taken for the beginning of something else.
            self.pass(1)?;
        }
        Ok(ended)
    }

    fn markup(&mut self) -> io::Result<bool> {
        let text = self.pending.iter().position(|byte| *byte == b'<').unwrap_or(self.pending.len());
        self.pass(text)?;
        match self.pending.as_slice() {
            [] | [_] => Ok(false),
            [_, b'!', b'-', b'-', ..] => {
                self.state = State::Comment;
                self.pass(4).map(|()| true)
            }
            [_, letter, ..] if letter.is_ascii_alphabetic() => self.tag(),
            rest if b"<!--".starts_with(rest) => Ok(false),
            _ => self.pass(1).map(|()| true),
        }
    }

    fn tag(&mut self) -> io::Result<bool> {
        let Some(tag) = Tag::read(&self.pending) else {
            let too_large = self.pending.len() > TAG_BYTES;
            if too_large {
                self.pass(1)?;
            }
            return Ok(too_large);
        };
        let name = String::from_utf8_lossy(&self.pending[1..tag.name]).to_ascii_lowercase();
        let links = LINKS.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, links)| *links);
        let mut done = 0;
        for (attribute, value) in tag.attributes {
            let is_link = links
                .iter()
                .any(|link| self.pending[attribute.clone()].eq_ignore_ascii_case(link.as_bytes()));
            let old = std::str::from_utf8(&self.pending[value.clone()]).ok().filter(|_| is_link);
            if let Some(new) = old.and_then(&self.link) {
                self.inner.write_all(&self.pending[done..value.start])?;
                self.inner.write_all(new.as_bytes())?;
                done = value.end;
            }
        }
        self.inner.write_all(&self.pending[done..tag.end])?;
        self.pending.drain(..tag.end);
        if let Some(raw) = RAW.iter().find(|raw| **raw == name) {
            self.state = State::Raw(raw);
        }
        Ok(true)
    }
}

impl<W: Write, L: Fn(&str) -> Option<String>> Write for Rewriter<W, L> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        while self.step()? {}
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

type Range = std::ops::Range<usize>;

/// Where the parts of a tag are that begins a text.
struct Tag {
    /// The end of its name.
    name: usize,
    /// Names and values, without quotes.
    attributes: Vec<(Range, Range)>,
    end: usize,
}

impl Tag {
    /// `None` if its end is still to come.
    fn read(text: &[u8]) -> Option<Self> {
        let until = |from: usize, stop: fn(u8) -> bool| {
            text.get(from..)?.iter().position(|byte| stop(*byte)).map(|at| from + at)
        };
        let name = until(1, |byte| is_space(byte) || matches!(byte, b'/' | b'>'))?;
        let (mut at, mut attributes) = (name, Vec::new());
        loop {
            at = until(at, |byte| !is_space(byte) && byte != b'/')?;
            if text[at] == b'>' {
                return Some(Self { name, attributes, end: at + 1 });
            }
            // An equals sign may begin a name.
            let end = until(at + 1, |byte| is_space(byte) || matches!(byte, b'/' | b'>' | b'='))?;
            let attribute = at..end;
            at = until(end, |byte| !is_space(byte))?;
            if text[at] != b'=' {
                continue;
            }
            let start = until(at + 1, |byte| !is_space(byte))?;
            let value = match text[start] {
                b'"' => start + 1..until(start + 1, |byte| byte == b'"')?,
                b'\'' => start + 1..until(start + 1, |byte| byte == b'\'')?,
                _ => start..until(start, |byte| is_space(byte) || byte == b'>')?,
            };
            at = value.end + (value.start - start);
            attributes.push((attribute, value));
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text with links rewritten that comes in pieces of a size.
    fn rewritten(html: &str, size: usize) -> String {
        let link = |link: &str| link.starts_with('/').then(|| format!("/proxy{link}"));
        let mut rewriter = Rewriter::new(Vec::new(), link);
        html.as_bytes().chunks(size).for_each(|part| rewriter.write_all(part).unwrap());
        String::from_utf8(rewriter.finish().unwrap()).unwrap()
    }

    #[track_caller]
    fn becomes(html: &str, wanted: &str) {
        for size in [1, 2, 3, 7, 1000] {
            assert_eq!(rewritten(html, size), wanted, "in pieces of {size}");
        }
    }

    #[test]
    fn links_lead_through_the_proxy() {
        becomes("<a href=\"/x\">y</a>", "<a href=\"/proxy/x\">y</a>");
        becomes("<A b HREF = '/x'c>", "<A b HREF = '/proxy/x'c>");
        becomes("<img src=/x longdesc=/y/>", "<img src=/proxy/x longdesc=/proxy/y/>");
        becomes(
            "<script src='/x'>\"</scrip<a href='/x'></script >",
            "<script src='/proxy/x'>\"</scrip<a href='/x'></script >",
        );
        becomes("<script>1</script><a href='/x'>", "<script>1</script><a href='/proxy/x'>");
    }

    #[test]
    fn all_else_stays_as_it_is() {
        for html in [
            "<!DOCTYPE html>\n<p>1 < 2 <= 3 & \u{e4}</p",
            "<a href=\"x\" name=\"/y\" title='>'>",
            "<!-- <a href=\"/x\"> --x --><p>",
            "<p href='/x'><a =/x><a href><a",
            "<title><a href='/x'></title>",
            "",
        ] {
            becomes(html, html);
        }
        let large = format!("<a href='/x' b='{}'>", "y".repeat(TAG_BYTES + 2000));
        assert_eq!(rewritten(&large, 1000), large);
    }
}
