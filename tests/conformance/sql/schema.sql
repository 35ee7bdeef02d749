set timezone = 'UTC';
create table numbers (
    id integer primary key, small smallint, big bigint, price numeric(10,2), rate numeric(5,4), free numeric,
    ratio double precision, single real, flag boolean
);
insert into numbers values
    (1, 1, 10000000000, 10.00, 0.0500, 1.0, 1.5, 0.1, true),
    (2, -2, -5, 20.50, 0.1000, 1.00, -2.25, 2.5, false),
    (3, 3, 7, -3.75, 0.0000, 123456789012345678901234567890.123456789, 0, -1, null),
    (4, null, 0, 0.00, null, -0.5, 'NaN', null, true),
    (5, 32767, 9223372036854775807, 99999999.99, 9.9999, 'NaN', 'Infinity', 3.25, false),
    (6, -32768, -9223372036854775808, null, 0.3333, 0, 1e300, 1e30, true),
    (7, 7, 7, 7.77, 0.7000, null, null, 7, null);
create table words (id integer primary key, t text, v varchar(12), c char(5), n name);
insert into words values
    (1, 'alpha', 'Alpha', 'al', 'first'), (2, 'Beta', 'beta', 'be', 'second'), (3, 'gamma delta', 'g_d%', 'ga  d', 'x'),
    (4, '', '', '', ''), (5, null, null, null, null), (6, 'ünïcödé ß', 'ÜNÏ', 'ün', 'é'),
    (7, '  padded  ', 'a,b,,c', 'pad', 'p'), (8, 'back\slash''quote', '100%', 'bs', 'q');
create table moments (id integer primary key, d date, ts timestamp, tz timestamptz, tm time, iv interval);
insert into moments values
    (1, '2020-02-29', '2020-02-29 12:34:56.789', '2020-02-29 12:34:56.789+00', '12:34:56.789', '1 month 2 days 03:04:05.6'),
    (2, '1999-12-31', '1999-12-31 23:59:59.999999', '1999-12-31 23:59:59+02', '23:59:59.999999', '-1 day'),
    (3, '2024-07-15', '2024-07-15 00:00:00', '2024-07-15 00:00:00-05', '00:00:00', '1 year 15 days'),
    (4, '1970-01-01', '1970-01-01 00:00:00', '1970-01-01 00:00:00+00', '06:30:00', '00:00:01'),
    (5, null, null, null, null, null),
    (6, 'infinity', '-infinity', 'infinity', '01:02:03', '30 days'),
    (7, '0044-03-15 BC', '0044-03-15 10:00:00 BC', '0001-01-01 00:00:00+00', '10:00', '-1 year -2 mons +3 days -04:05:06');
create table people (id integer primary key, name text not null, boss integer, dept integer, salary numeric(8,2), hired date);
insert into people values
    (1, 'Ada', null, 10, 9000.00, '2015-01-10'), (2, 'Bob', 1, 10, 5500.50, '2016-03-20'),
    (3, 'Cyd', 1, 20, 6100.25, '2017-06-01'), (4, 'Dan', 3, 20, 4200.00, '2018-11-11'),
    (5, 'Eve', 3, 20, 4200.00, '2019-02-28'), (6, 'Fay', 2, 30, null, '2020-05-05'), (7, 'Gus', 2, null, 3999.99, null);
create table depts (id integer primary key, name text, city text);
insert into depts values (10, 'core', 'Oslo'), (20, 'edge', 'Rome'), (40, 'void', null);
create table flights as
    select g as id, date '2013-01-01' + g % 365 as day, 1 + g % 12 as month,
        (array['UA','AA','DL','B6','WN'])[1 + g % 5] as carrier,
        (array['JFK','LGA','EWR'])[1 + g % 3] as origin,
        (array['LAX','SFO','BOS','MIA','ORD','ATL','SEA'])[1 + g % 7] as dest,
        case when g % 17 = 0 then null else (g * 37 % 200 - 30)::double precision end as dep_delay,
        case when g % 19 = 0 then null else (g * 53 % 240 - 40)::double precision end as arr_delay,
        (200 + g * 7 % 2400)::integer as distance, (30 + g % 400)::smallint as air_time
    from generate_series(1, 3000) g;
alter table flights add primary key (id);
