//! Whether the last thing that was done to a file is the rename that an event tells of.
//!
//! An event can come late. By then the file that was renamed into place may have been written again, in place, and be
//! half of what its writer means; the event of that is still to come. The time stamps tell: a rename sets the change
//! time of the file and the modification time of the directory, to the same moment; a write sets both times of the
//! file, and nothing of the directory.
//!
//! Stamps of one file system are compared with each other, never with a clock of ours. Where they say nothing, the answer
//! is no: then the content must stand still first, as after any other change.

use crate::fs::{Seen, Stamp};

/// In nanoseconds.
const MS: i128 = 1_000_000;
/// Longer than the kernel's clock stands between two of its steps (10 ms), twice.
const STEPS: i128 = 20 * MS;
/// What nobody wrote for so long is whole. Longer than the settle time by more than the coarsest stamps (2 s).
const STILL: i128 = 5_000 * MS;

/// Whether what was seen of a file was left by a rename into a directory that was last changed at `directory`, and not
/// by a write after it.
///
/// Not told apart: a write within the same step of the kernel's clock as the rename; a file that was removed after the
/// rename, created again and written, all within one step; a write that was followed by a change of another name in
/// that directory, within [`STEPS`], or by a change of the file's attributes and of such a name.
pub(super) fn is_left_by_rename(directory: Stamp, seen: &Seen) -> bool {
    let Seen::There(signature) = seen else { return false };
    let (modified, changed) = (nanos(signature.modified()), nanos(signature.changed()));
    let directory = nanos(directory);
    // Positive when the directory changed after the file.
    let later = directory - changed;
    if modified > directory || later < -STEPS {
        return false;
    }
    if modified != changed || later >= STILL {
        return true;
    }
    // The last that was done to it is a write, or a rename in the same step of the clock. Where steps are those of the file
    // system, up to 2 s, they are too long to take one for the other.
    let is_coarse = changed % MS == 0 && directory % MS == 0;
    // Created, written and renamed within one step, as most writers do: then it does not matter which name was changed after it.
    let is_born = signature.born().map(nanos) == Some(changed);
    !is_coarse && (is_born || (0..=STEPS).contains(&later))
}

fn nanos(stamp: Stamp) -> i128 {
    i128::from(stamp.secs) * 1_000_000_000 + i128::from(stamp.nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Kind, Meta};

    /// A file with these times, in nanoseconds after the directory was changed.
    fn is_left(modified: i128, changed: i128) -> bool {
        left_in(1_800_000_000 * 1_000 * MS + 123_456, modified, changed)
    }

    fn left_in(directory: i128, modified: i128, changed: i128) -> bool {
        left_of(directory, modified, changed, None)
    }

    fn left_of(directory: i128, modified: i128, changed: i128, born: Option<i128>) -> bool {
        let stamp = |at: i128| Stamp {
            secs: i64::try_from(at.div_euclid(1_000_000_000)).unwrap(),
            nanos: u32::try_from(at.rem_euclid(1_000_000_000)).unwrap(),
        };
        let meta = Meta {
            kind: Kind::File,
            device: 1,
            inode: 2,
            links: 1,
            size: 3,
            mode: 0o600,
            modified: stamp(directory + modified),
            changed: stamp(directory + changed),
            born: born.map(|at| stamp(directory + at)),
        };
        is_left_by_rename(stamp(directory), &Seen::There(meta.signature()))
    }

    #[test]
    fn a_rename_leaves_its_moment_on_the_file_and_on_the_directory() {
        assert!(is_left(-1, 0), "written before, at any time");
        assert!(is_left(-3_600_000 * MS, 0));
        assert!(is_left(0, 0), "written in the same step of the clock");
        assert!(is_left(-4 * MS, -4 * MS), "the clock went on between the two stamps");
        assert!(is_left(-4 * MS, 4 * MS), "and when the directory's is the first");
        assert!(is_left(-4 * MS, 20 * MS), "by two of the longest steps at the most");
        assert!(is_left(-500 * MS, -400 * MS), "another name was changed since");
    }

    #[test]
    fn a_write_after_the_rename_shows() {
        assert!(!is_left(46 * MS, 46 * MS));
        assert!(!is_left(1, 1));
        assert!(!is_left(46 * MS, 47 * MS), "also when its mode was set after that");
        assert!(!is_left(-3_600_000 * MS, 46 * MS), "or its time was set back");
        assert!(!is_left(-21 * MS, -21 * MS), "another name was changed long after the write");
        assert!(!is_left(-4_999 * MS, -4_999 * MS));
        assert!(!is_left_by_rename(Stamp::default(), &Seen::Not(std::io::ErrorKind::NotFound)));
    }

    #[test]
    fn a_file_that_was_written_and_renamed_as_soon_as_it_was_created_may_be_followed_by_others() {
        let directory = 1_800_000_000_000 * MS + 123_456;
        for born in [None, Some(-60 * MS), Some(-50 * MS)] {
            assert_eq!(left_of(directory, -50 * MS, -50 * MS, born), born == Some(-50 * MS), "{born:?}");
        }
        assert!(!left_of(directory, 50 * MS, 50 * MS, Some(50 * MS)), "not into this directory");
        let coarse = 1_800_000_000_000 * MS;
        assert!(!left_of(coarse, -50 * MS, -50 * MS, Some(-50 * MS)));
    }

    /// A link that is renamed leads to a file that nobody touches then.
    #[test]
    fn what_has_stood_for_long_is_whole() {
        assert!(is_left(-5_000 * MS, -5_000 * MS));
        assert!(left_in(1_800_000_000_000 * MS, -6_000 * MS, -6_000 * MS), "on coarse clocks too");
    }

    #[test]
    fn coarse_stamps_do_not_tell_a_write_from_a_rename_of_the_same_moment() {
        let second = 1_800_000_000_000 * MS;
        assert!(!left_in(second, 0, 0));
        assert!(!left_in(second, -2 * MS, -2 * MS));
        assert!(left_in(second, -1_000 * MS, 0), "written a second before");
        assert!(left_in(second + 1, 0, 0), "these are not coarse");
        assert!(left_in(second, 1 - 2 * MS, 1 - 2 * MS), "nor are these");
    }
}
