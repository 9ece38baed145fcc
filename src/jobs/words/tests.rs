use crate::jobs::schedule::Schedule;

fn words(text: &str) -> String {
    Schedule::parse(text, "UTC").unwrap().words()
}

#[test]
fn a_promise_counts_its_units() {
    for (micros, expected) in [
        (600_000_000, "at most 10 minutes behind"),
        (3_600_000_000, "at most 1 hour behind"),
        (5_400_000_000, "at most 1 hour 30 minutes behind"),
        (90_061_000_000, "at most 1 day 1 hour 1 minute 1 second behind"),
        (1_500_000, "at most 1.5 seconds behind"),
    ] {
        assert_eq!(super::at_most(micros), expected);
    }
}

#[test]
fn usual_shapes_read_as_people_say_them() {
    for (text, expected) in [
        ("* * * * *", "every minute"),
        ("*/1 0-23 * * *", "every minute"),
        ("*/15 * * * *", "every 15 minutes"),
        ("0-59/15 * * * *", "every 15 minutes"),
        ("0,15,30,45 * * * *", "every 15 minutes"),
        ("0 * * * *", "hourly"),
        ("@hourly", "hourly"),
        ("5 * * * *", "hourly at minute 5"),
        ("5,20 * * * *", "hourly at minutes 5 and 20"),
        ("*/7 * * * *", "hourly at minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56"),
        ("0 */6 * * *", "every 6 hours"),
        ("10 */6 * * *", "every 6 hours at minute 10"),
        ("30 3 * * *", "at 03:30"),
        ("@daily", "at 00:00"),
        ("0 6,18 * * *", "at 06:00 and 18:00"),
        ("0,30 6,18 * * *", "at 06:00, 06:30, 18:00 and 18:30"),
        ("30 3 * * 1-5", "at 03:30 on weekdays"),
        ("30 3 * * MON-FRI", "at 03:30 on weekdays"),
        ("30 3 * * SAT,SUN", "at 03:30 on weekends"),
        ("30 3 * * 6-7", "at 03:30 on weekends"),
        ("@weekly", "at 00:00 on Sunday"),
        ("0 9 * * sun,thu,mon", "at 09:00 on Monday, Thursday and Sunday"),
        ("0 0 1 * *", "at 00:00 on the 1st of the month"),
        ("0 0 1,15 * *", "at 00:00 on the 1st and 15th of the month"),
        ("0 0 22,23,13 * *", "at 00:00 on the 22nd, 23rd and 13th of the month"),
        ("0 0 1-7 * *", "at 00:00 on the 1st to 7th of the month"),
        ("0 6 L * *", "at 06:00 on the last day of the month"),
        ("0 6 $ * *", "at 06:00 on the last day of the month"),
        ("0 6 1,L * *", "at 06:00 on the 1st and last day of the month"),
        ("0 6 LW * *", "at 06:00 on the last weekday of the month"),
        ("0 6 15W * *", "at 06:00 on the weekday nearest the 15th of the month"),
        ("0 9 * * 5#3", "at 09:00 on the third Friday"),
        ("0 9 * * FRI#3", "at 09:00 on the third Friday"),
        ("0 9 * 3 5#1,5#3", "at 09:00 on the first Friday and the third Friday in March"),
        ("0 9 * * 5L", "at 09:00 on the last Friday"),
        ("0 9 * * FRI#L", "at 09:00 on the last Friday"),
        ("0 9 * * 7#2", "at 09:00 on the second Sunday"),
        ("0 4 1 1 *", "at 04:00 on 1 January"),
        ("@yearly", "at 00:00 on 1 January"),
        ("0 4 1 JAN,JUL *", "at 04:00 on 1 January and 1 July"),
        ("0 4 L 2 *", "at 04:00 on the last day of the month in February"),
        ("0 4 * JAN,JUL *", "at 04:00 in January and July"),
        ("0 4 * APR-SEP *", "at 04:00 from April to September"),
        ("0 4 * */3 *", "at 04:00 in January, April, July and October"),
        ("0 0 13 3 +1,4", "at 00:00 on 13 March if it is a Monday or Thursday"),
        ("0 0 13 1-8 +5#2", "at 00:00 on the 13th of the month from January to August if it is the second Friday"),
        ("0 0 1 * +1-5", "at 00:00 on the 1st of the month if it is a weekday"),
        ("0 0 13 3,4 FRI", "at 00:00 on the 13th of the month or on Friday, in March and April"),
        ("*/30 9-10 * * *", "every 30 minutes from 09:00 to 10:30"),
        ("0 0,12 * * *", "every 12 hours"),
        ("0 6,7 * * *", "at 06:00 and 07:00"),
        ("0 0 13 * FRI", "at 00:00 on the 13th of the month or on Friday"),
        ("0 0 29 2 +MON", "at 00:00 on 29 February if it is a Monday"),
        ("* 9-17 * * *", "every minute from 09:00 to 17:59"),
        ("*/15 9-17 * * MON-FRI", "every 15 minutes from 09:00 to 17:45 on weekdays"),
        ("0 9-11 * APR-JUN *", "hourly from 09:00 to 11:00 from April to June"),
        ("5 9-17 * * *", "hourly from 09:05 to 17:05"),
        ("* 3 * * *", "every minute from 03:00 to 03:59"),
        ("* * * * * *", "every second"),
        ("*/10 * * * * *", "every 10 seconds"),
        ("30 * * * * *", "every minute at second 30"),
        ("15 30 3 * * *", "at 03:30:15"),
        ("* * 9-17 * * *", "every second from 09:00:00 to 17:59:59"),
        ("0 */5 * * * *", "every 5 minutes"),
    ] {
        assert_eq!(words(text), expected, "{text}");
    }
}

#[test]
fn other_shapes_are_told_field_by_field() {
    for (text, expected) in [
        ("1-5 2,4 * * *", "minutes 1-5, hours 2, 4"),
        ("*/20 2,4,9 * * *", "every 20 minutes, hours 2, 4, 9"),
        ("5-50/9 */3 * * 1", "minutes 5, 14, 23, 32, 41, 50, every 3 hours on Monday"),
        ("1,2 1-9 3 * * *", "seconds 1, 2, minutes 1-9, hour 3"),
        ("0 0 */2 * *", "at 00:00, days of month */2"),
        ("0 0 */2 * MON", "at 00:00, days of month */2, days of week MON"),
        ("0 0 1-31/2 6 MON", "at 00:00, days of month 1-31/2 or days of week MON, months 6"),
    ] {
        assert_eq!(words(text), expected, "{text}");
    }
}

#[test]
fn intervals_have_no_zone() {
    for (text, expected) in [
        ("1 second", "every second"),
        ("30 seconds", "every 30 seconds"),
        ("60s", "every minute"),
        ("15 minutes", "every 15 minutes"),
        ("90 minutes", "every 1 hour 30 minutes"),
        ("24 hours", "every day"),
        ("1 week", "every 7 days"),
    ] {
        assert_eq!(Schedule::parse(text, "Europe/Berlin").unwrap().words(), expected, "{text}");
    }
}

#[test]
fn zone_is_said_unless_it_is_utc() {
    let words = |zone| Schedule::parse("30 3 * * 1-5", zone).unwrap().words();
    assert_eq!(words("europe/berlin"), "at 03:30 on weekdays, Europe/Berlin");
    for zone in ["UTC", "gmt", "Etc/UTC", "Zulu"] {
        assert_eq!(words(zone), "at 03:30 on weekdays");
    }
    assert_eq!(words("Europe/London"), "at 03:30 on weekdays, Europe/London");
}
