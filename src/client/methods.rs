//! From a method's name to its number.

use crate::error::{Error, Result};
use crate::link::Shared;
use crate::proto::handshake::CallShape;

impl Method {
    #[cfg(feature = "tokio")]
    pub(super) fn number(self) -> u16 {
        self.number
    }
}

/// Method names listed in an error.
const LISTED: usize = 12;

/// A method of the server that a client is connected to, found once and used often.
///
/// Valid for the connection that it was found on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    pub(super) number: u16,
}

/// The number of the method called `name`.
///
/// A linear search: tables are short, and comparing lengths first makes a miss cheap. Who calls
/// the same method a million times a second keeps the [`Method`].
#[inline]
pub(super) fn find(shared: &Shared, name: &str) -> Result<Method> {
    match shared
        .terms
        .methods
        .iter()
        .position(|method| *method.name == *name)
    {
        Some(number) => Ok(Method {
            number: number as u16,
        }),
        None => Err(unknown(shared, name)),
    }
}

/// Checks that a method answers in the way that it is called for.
#[inline]
pub(super) fn check_shape(shared: &Shared, method: Method, wanted: CallShape) -> Result<()> {
    match shared.terms.methods.get(usize::from(method.number)) {
        Some(method) if method.shape == wanted => Ok(()),
        Some(method) => Err(wrong_shape(&method.name)),
        None => Err(unknown(shared, &format!("number {}", method.number))),
    }
}

#[cold]
fn wrong_shape(name: &str) -> Error {
    Error::WrongShape { name: name.into() }
}

#[cold]
fn unknown(shared: &Shared, name: &str) -> Error {
    let methods = &shared.terms.methods;
    let mut known: Vec<_> = methods
        .iter()
        .take(LISTED)
        .map(|m| m.name.to_string())
        .collect();
    if methods.len() > LISTED {
        known.push(format!("and {} more", methods.len() - LISTED));
    }
    Error::NoMethod {
        name: name.to_owned(),
        known,
    }
}
