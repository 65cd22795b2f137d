//! Symbolic extents: polynomials over named symbols and floor divisions, in a normal form, so that equal means equal.

use alloc::{boxed::Box, collections::BTreeMap, string::String, sync::Arc, vec, vec::Vec};
use core::fmt;

/// A named unknown extent. Two symbols are the same when their names are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// The symbol of this name.
    pub fn new(name: &str) -> Symbol {
        Symbol(name.into())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Atom {
    Symbol(Symbol),
    FloorDiv(Box<Dim>, Box<Dim>),
}

/// An extent or a small integer computed from extents: a number, or an expression over [`Symbol`]s.
///
/// Kept as a sum of products (coefficient × atoms, atoms sorted), so that `2*n + n - n == 2*n` holds by comparison.
/// Arithmetic saturates: a dim that overflows is refused when it becomes a shape.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dim {
    constant: i64,
    terms: Vec<(Vec<Atom>, i64)>,
}

/// More terms than this are not worth tracking: the expression becomes an opaque symbol of its own text.
const MAX_TERMS: usize = 16;

impl Dim {
    /// A symbol.
    pub fn symbol(symbol: Symbol) -> Dim {
        Dim { constant: 0, terms: vec![(vec![Atom::Symbol(symbol)], 1)] }
    }

    /// The number, if the dim holds no symbol.
    pub fn as_const(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// The number as an extent: known and not negative.
    pub fn as_extent(&self) -> Option<usize> {
        self.as_const().and_then(|c| usize::try_from(c).ok())
    }

    /// True if the dim is this number.
    pub fn is(&self, n: i64) -> bool {
        self.as_const() == Some(n)
    }

    /// True if the dim is certainly `n` or more, whatever its symbols are: they stand for extents, which are not negative.
    pub fn at_least(&self, n: i64) -> bool {
        self.constant >= n && self.terms.iter().all(|(atoms, c)| *c >= 0 && atoms.iter().all(Atom::is_not_negative))
    }

    /// True if the dim is certainly `n` or less.
    pub fn at_most(&self, n: i64) -> bool {
        self.mul(&Dim::from(-1)).at_least(n.saturating_neg())
    }

    /// Sum.
    pub fn add(&self, other: &Dim) -> Dim {
        let mut terms = self.terms.clone();
        terms.extend(other.terms.iter().cloned());
        Dim::normal(self.constant.saturating_add(other.constant), terms)
    }

    /// Difference.
    pub fn sub(&self, other: &Dim) -> Dim {
        self.add(&other.mul(&Dim::from(-1)))
    }

    /// Product.
    pub fn mul(&self, other: &Dim) -> Dim {
        let mut terms = Vec::new();
        for (b, c) in other.with_constant() {
            for (a, d) in self.with_constant() {
                let mut atoms = a.to_vec();
                atoms.extend(b.iter().cloned());
                atoms.sort();
                terms.push((atoms, c.saturating_mul(d)));
            }
        }
        Dim::normal(0, terms)
    }

    /// Quotient rounded towards minus infinity. Division by zero gives zero: no valid model divides a dim by it.
    pub fn div_floor(&self, other: &Dim) -> Dim {
        match (self.as_const(), other.as_const()) {
            (Some(_), Some(0)) => Dim::from(0),
            (Some(a), Some(b)) => Dim::from(a.div_euclid(b) - i64::from(b < 0 && a.rem_euclid(b) != 0)),
            (_, Some(1)) => self.clone(),
            _ if self == other => Dim::from(1),
            _ => self
                .exact_quotient(other)
                .unwrap_or_else(|| Dim { constant: 0, terms: vec![(vec![Atom::FloorDiv(Box::new(self.clone()), Box::new(other.clone()))], 1)] }),
        }
    }

    /// Quotient rounded towards plus infinity, for positive divisors.
    pub fn div_ceil(&self, other: &Dim) -> Dim {
        self.add(other).sub(&Dim::from(1)).div_floor(other)
    }

    /// The dim with symbols replaced by numbers.
    pub fn substitute(&self, values: &BTreeMap<Symbol, i64>) -> Dim {
        let mut sum = Dim::from(self.constant);
        for (atoms, c) in &self.terms {
            let mut product = Dim::from(*c);
            for atom in atoms {
                product = product.mul(&match atom {
                    Atom::Symbol(s) => values.get(s).map_or_else(|| Dim::symbol(s.clone()), |&v| Dim::from(v)),
                    Atom::FloorDiv(a, b) => a.substitute(values).div_floor(&b.substitute(values)),
                });
            }
            sum = sum.add(&product);
        }
        sum
    }

    /// The product of many dims.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::from(1), |a, b| a.mul(b))
    }

    fn with_constant(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        let constant = (self.constant != 0).then_some((&[][..], self.constant));
        self.terms.iter().map(|(a, c)| (&a[..], *c)).chain(constant)
    }

    /// `self / other` where `other` is one term that divides every term of `self`.
    fn exact_quotient(&self, other: &Dim) -> Option<Dim> {
        let mut divisor = other.with_constant();
        let (atoms, c) = divisor.next()?;
        if divisor.next().is_some() {
            return None;
        }
        let mut terms = Vec::new();
        for (have, d) in self.with_constant() {
            let mut rest = have.to_vec();
            for a in atoms {
                let at = rest.iter().position(|x| x == a)?;
                rest.remove(at);
            }
            if d % c != 0 {
                return None;
            }
            terms.push((rest, d / c));
        }
        Some(Dim::normal(0, terms))
    }

    fn normal(mut constant: i64, mut terms: Vec<(Vec<Atom>, i64)>) -> Dim {
        terms.sort();
        let mut out: Vec<(Vec<Atom>, i64)> = Vec::with_capacity(terms.len());
        for (atoms, c) in terms {
            if atoms.is_empty() {
                constant = constant.saturating_add(c);
                continue;
            }
            match out.last_mut() {
                Some((last, sum)) if *last == atoms => *sum = sum.saturating_add(c),
                _ => out.push((atoms, c)),
            }
        }
        out.retain(|(_, c)| *c != 0);
        let dim = Dim { constant, terms: out };
        if dim.terms.len() > MAX_TERMS {
            let text: String = alloc::format!("({dim})");
            return Dim::symbol(Symbol::new(&text));
        }
        dim
    }
}

macro_rules! from_ints {
    ($($t:ty),*) => { $(
        impl From<$t> for Dim {
            fn from(n: $t) -> Dim {
                Dim { constant: i64::try_from(n).unwrap_or(i64::MAX), terms: Vec::new() }
            }
        }
    )* };
}
from_ints!(i32, i64, usize, u64);

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (atoms, c) in self.with_constant() {
            let sign = if c < 0 { "-" } else { "+" };
            match (first, c < 0) {
                (true, true) => f.write_str("-")?,
                (true, false) => {}
                _ => write!(f, " {sign} ")?,
            }
            first = false;
            let mut factors = atoms.iter();
            if c.unsigned_abs() != 1 || atoms.is_empty() {
                write!(f, "{}", c.unsigned_abs())?;
            } else if let Some(a) = factors.next() {
                write!(f, "{a}")?;
            }
            for a in factors {
                write!(f, "*{a}")?;
            }
        }
        if first { f.write_str("0") } else { Ok(()) }
    }
}

impl Atom {
    fn is_not_negative(&self) -> bool {
        match self {
            Atom::Symbol(_) => true,
            Atom::FloorDiv(a, b) => a.at_least(0) && b.at_least(0),
        }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Symbol(s) => f.write_str(s.name()),
            Atom::FloorDiv(a, b) => write!(f, "(({a})/({b}))"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn n() -> Dim {
        Dim::symbol(Symbol::new("n"))
    }

    #[test]
    fn equal_expressions_compare_equal() {
        let two_n = n().add(&n());
        assert_eq!(two_n, n().mul(&Dim::from(2)));
        assert_eq!(two_n.sub(&n()), n());
        assert_eq!(n().sub(&n()), Dim::from(0));
        assert_eq!(n().mul(&Dim::from(6)).div_floor(&Dim::from(3)), two_n);
        assert_eq!(n().mul(&n()).div_floor(&n()), n());
        assert_eq!(two_n.add(&Dim::from(-1)).to_string(), "2*n - 1");
    }

    #[test]
    fn bounds_hold_for_every_extent() {
        assert!(n().at_least(0) && n().add(&Dim::from(3)).at_least(3) && !n().at_least(1));
        assert!(Dim::from(2).sub(&n()).at_most(2) && !n().at_most(100));
        assert!(n().div_floor(&Dim::from(2)).at_least(0) && !n().sub(&Dim::from(1)).div_floor(&Dim::from(2)).at_least(0));
    }

    #[test]
    fn substitution_evaluates() {
        let half = n().add(&Dim::from(1)).div_floor(&Dim::from(2));
        let at = |v| half.substitute(&BTreeMap::from([(Symbol::new("n"), v)])).as_const();
        assert_eq!((at(7), at(8)), (Some(4), Some(4)));
        assert_eq!(Dim::from(-7).div_floor(&Dim::from(2)), Dim::from(-4));
        assert_eq!(Dim::from(7).div_ceil(&Dim::from(2)), Dim::from(4));
        assert_eq!(Dim::from(7).div_floor(&Dim::from(-2)), Dim::from(-4));
    }
}
