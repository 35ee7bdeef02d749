-- Differences that random statements found. See tests/conformance/engine/test_random_statements.py.
select integer '1'::numeric / 3, numeric(5,2) '1.5'::integer, double precision '1.5'::numeric(5,3), bigint '7'::text || 'x';
select timestamp with time zone '2020-01-01 00:00:00+02'::date, timestamp '2020-01-01 10:00'::date::text, date '2020-01-01'::timestamp;
select id, nullif(v, 'it'::char(3))::text, nullif(v, c) from words order by id;
select nullif(1, 2.5), pg_typeof(nullif(1, 2.5)), pg_typeof(nullif(1::smallint, 2)), nullif(id, 2.0) from numbers order by id;
select id, concat_ws('-', c, 1), concat(c, c), format('%s|', c), concat_ws(c, 'a', 'b') from words order by id;
select pg_typeof(greatest(v, t)), pg_typeof(greatest(t, v)), greatest(v, t, 'b') from words order by id;
select id, -free, - (free / 0.5) from numbers order by id;
select string_agg('x', ',' order by 'x'), string_agg(distinct 'x'::text, ',' order by 'x'::text desc), array_agg(1 order by 1, id) from numbers;
select id, row_number() over (order by ratio * 2, id), sum(id) over (partition by single / 2 order by ratio - 1, id) from numbers order by id;
select id, row_number() over (order by ratio / nullif(single, 0) desc nulls last, id) from numbers order by id;
select id, d + (id * 1000), (id * 100) + d, d - id from moments where id < 5 order by id;
select d + 2147483647 from moments where id = 1;
select d - (2147483647 - id) from moments where id = 1;
select d + big::integer from moments join numbers using (id) where id = 3;
select ratio + ratio + ratio + ratio + ratio + ratio + ratio + ratio + ratio + ratio + ratio + ratio + ratio + ratio from numbers where id < 4 order by id;
select id, sign(ratio), sign('NaN'::float8), sign('NaN'::numeric) from numbers order by id;
