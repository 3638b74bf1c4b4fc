//! [`Few`]: a list that lies beside what holds it while it is short, so that a look finds it in the same place of memory.

use std::fmt;
use std::ops::Deref;

/// Items of which there are seldom more than three: an identity and its trust anchors.
//
// The order of the fields is the order in which they are needed.
#[repr(C)]
pub(crate) struct Few<T> {
    /// Of the items, if they are few; otherwise zero.
    count: usize,
    few: [T; FEW],
    many: Box<[T]>,
}

const FEW: usize = 3;

impl<T: Default> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items = items.into_iter();
        let mut list = Self::default();
        while let Some(item) = items.next() {
            if let Some(place) = list.few.get_mut(list.count) {
                *place = item;
                list.count += 1;
            } else {
                let few = std::mem::take(&mut list.few);
                list.count = 0;
                list.many = few.into_iter().chain([item]).chain(items).collect();
                break;
            }
        }
        list
    }
}

impl<T: Default> Default for Few<T> {
    fn default() -> Self {
        Self { count: 0, few: Default::default(), many: Box::default() }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        if self.count > 0 { self.few.get(..self.count).unwrap_or_default() } else { &self.many }
    }
}

impl<T: fmt::Debug> fmt::Debug for Few<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_what_was_put_into_it_however_long_it_is() {
        for count in 0..10 {
            let items: Vec<String> = (0..count).map(|number| number.to_string()).collect();
            let list: Few<String> = items.iter().cloned().collect();
            assert_eq!(list[..], items[..]);
        }
    }
}
