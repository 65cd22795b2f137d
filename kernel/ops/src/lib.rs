//! millstream's operators, one file each.
