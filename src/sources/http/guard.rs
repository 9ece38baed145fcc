//! Which addresses a request may reach. A source's address, a redirect or a `next` link may name any host, and any
//! name may resolve to the database's own machine, its neighbours or the cloud's metadata service; so the address
//! itself is judged, after DNS, right before it is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses: `10.1.0.0/16`, `::1/128`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    pub fn parse(text: &str) -> Option<Cidr> {
        let text = text.trim();
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None => longest,
        };
        (prefix <= longest).then_some(Cidr { address, prefix })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                same(range.to_bits().into(), address.to_bits().into(), 32, self.prefix)
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => same(range.to_bits(), address.to_bits(), 128, self.prefix),
            _ => false,
        }
    }
}

fn same(a: u128, b: u128, width: u8, prefix: u8) -> bool {
    prefix == 0 || (a ^ b) >> (width - prefix) == 0
}

/// Why an address is refused, unless a range in `allowed` holds it; `None` where it may be connected to.
pub fn refusal(address: IpAddr, allowed: &[Cidr]) -> Option<&'static str> {
    if allowed.iter().any(|range| range.contains(address)) {
        return None;
    }
    match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) if allowed.iter().any(|range| range.contains(v4.into())) => None,
            Some(v4) => special_v4(v4),
            None => special_v6(v6),
        },
    }
}

/// The IPv4 address that a packet to this one ends at: mapped (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = |shift: u32| Some(Ipv4Addr::from_bits((v6.to_bits() >> shift) as u32));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => low(0),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => low(0),
        [0x2002, ..] => low(80),
        _ => None,
    }
}

/// The registry of special-purpose addresses (RFC 6890), and those of clouds.
fn special_v4(v4: Ipv4Addr) -> Option<&'static str> {
    Some(match v4.octets() {
        [127, ..] => "a loopback address",
        [0, ..] => "an unspecified address",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "a private address",
        [169, 254, ..] => "a link-local address",
        [100, 64..=127, ..] => "a shared address of carriers",
        [224..=239, ..] => "a multicast address",
        [168, 63, 129, 16] => "a cloud's metadata address",
        [192, 0, 0, _]
        | [192, 0, 2, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [240..=255, ..] => "a reserved address",
        _ => return None,
    })
}

fn special_v6(v6: Ipv6Addr) -> Option<&'static str> {
    Some(match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => "a loopback address",
        [0, 0, 0, 0, 0, 0, 0, 0] => "an unspecified address",
        [0xfc00..=0xfdff, ..] => "a private address",
        [0xfe80..=0xfebf, ..] => "a link-local address",
        [0xff00..=0xffff, ..] => "a multicast address",
        // Teredo, ORCHID and the like; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "a reserved address",
        // ISATAP: an IPv4 address behind a router of ours.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => "a tunnel's address",
        // Nothing else is handed out for the public network yet.
        [0x2000..=0x3fff, ..] => return None,
        _ => "a reserved address",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> Option<&'static str> {
        refusal(address.parse().unwrap(), &[])
    }

    #[test]
    fn addresses_that_are_not_public_are_refused() {
        for address in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "192.88.99.1",
            "::",
            "::1",
            "::7f00:1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "::ffff:0:10.1.2.3",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:0:1::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "2a00::5efe:7f00:1",
            "2a00::200:5efe:7f00:1",
        ] {
            assert!(refused(address).is_some(), "{address} passes");
        }
    }

    #[test]
    fn public_addresses_pass() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "192.167.1.1",
            "169.253.1.1",
            "223.255.255.255",
            "168.63.129.17",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2001:4860:4860::8888",
            "3ffe::1",
        ] {
            assert_eq!(refused(address), None, "{address}");
        }
    }

    #[test]
    fn a_listed_range_opens_exactly_itself() {
        let allowed: Vec<_> =
            ["127.0.0.1", "10.1.0.0/16", "fd00::/8"].iter().map(|c| Cidr::parse(c).unwrap()).collect();
        let passes = |address: &str| refusal(address.parse().unwrap(), &allowed).is_none();
        for address in ["127.0.0.1", "10.1.255.255", "::ffff:10.1.0.1", "64:ff9b::a01:1", "fdff::1", "8.8.8.8"] {
            assert!(passes(address), "{address}");
        }
        for address in ["127.0.0.2", "10.2.0.0", "10.0.255.255", "::1", "fc00::1", "::ffff:10.2.0.1"] {
            assert!(!passes(address), "{address}");
        }
        let all = [Cidr::parse("0.0.0.0/0").unwrap()];
        assert_eq!(refusal("169.254.169.254".parse().unwrap(), &all), None);
        assert!(refusal("::1".parse().unwrap(), &all).is_some());
    }

    #[test]
    fn what_is_no_range_is_not_taken_for_one() {
        for text in
            ["", "10.0.0.0/33", "::/129", "10.0.0/8", "localhost", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/+8", "/8"]
        {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }
}
