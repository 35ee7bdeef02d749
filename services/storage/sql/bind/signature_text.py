"""The text of the signature table: data, read by `signatures`.

A line is `name argument-types -> result flags`; names that share a line are separated by `,`.
Flags: n called with NULLs too, s stable, v volatile, V last argument variadic, k<n> ordered set of n direct arguments.
"""

COMPARED = """
bool bool
int2 int2
int2 int4
int2 int8
int4 int2
int4 int4
int4 int8
int8 int2
int8 int4
int8 int8
numeric numeric
float4 float4
float4 float8
float8 float4
float8 float8
text text
bpchar bpchar
name name
name text
text name
char char
bytea bytea
date date
date timestamp
timestamp date
date timestamptz
timestamptz date
timestamp timestamp
timestamp timestamptz
timestamptz timestamp
timestamptz timestamptz
time time
interval interval
uuid uuid
oid oid
jsonb jsonb
oidvector oidvector
anyarray anyarray
xid xid
"""

OPERATORS = """
+,-,*,/ int2 int2 -> int2
+,-,*,/ int2 int4 -> int4
+,-,*,/ int4 int2 -> int4
+,-,*,/ int4 int4 -> int4
+,-,*,/ int2 int8 -> int8
+,-,*,/ int8 int2 -> int8
+,-,*,/ int4 int8 -> int8
+,-,*,/ int8 int4 -> int8
+,-,*,/ int8 int8 -> int8
+,-,*,/ numeric numeric -> numeric
+,-,*,/ float4 float4 -> float4
+,-,*,/ float4 float8 -> float8
+,-,*,/ float8 float4 -> float8
+,-,*,/ float8 float8 -> float8
% int2 int2 -> int2
% int4 int4 -> int4
% int8 int8 -> int8
% numeric numeric -> numeric
^ float8 float8 -> float8
^ numeric numeric -> numeric
& int2 int2 -> int2
& int4 int4 -> int4
& int8 int8 -> int8
| int2 int2 -> int2
| int4 int4 -> int4
| int8 int8 -> int8
# int2 int2 -> int2
# int4 int4 -> int4
# int8 int8 -> int8
<<,>> int2 int4 -> int2
<<,>> int4 int4 -> int4
<<,>> int8 int4 -> int8
|| text text -> text
|| text anynonarray -> text s
|| anynonarray text -> text s
|| bytea bytea -> bytea
|| jsonb jsonb -> jsonb
|| anyarray anyarray -> anyarray n
|| anyarray anyelement -> anyarray n
|| anyelement anyarray -> anyarray n
~~ text text -> bool
~~ bpchar text -> bool
~~ name text -> bool
!~~ text text -> bool
!~~ bpchar text -> bool
!~~ name text -> bool
~~* text text -> bool
~~* bpchar text -> bool
~~* name text -> bool
!~~* text text -> bool
!~~* bpchar text -> bool
!~~* name text -> bool
~ text text -> bool
~ bpchar text -> bool
~ name text -> bool
!~ text text -> bool
!~ bpchar text -> bool
!~ name text -> bool
~* text text -> bool
~* bpchar text -> bool
~* name text -> bool
!~* text text -> bool
!~* bpchar text -> bool
!~* name text -> bool
+ date int4 -> date
+ int4 date -> date
- date int4 -> date
- date date -> int4
+ date time -> timestamp
+ time date -> timestamp
+ date interval -> timestamp
+ interval date -> timestamp
- date interval -> timestamp
+ timestamp interval -> timestamp
+ interval timestamp -> timestamp
- timestamp interval -> timestamp
+ timestamptz interval -> timestamptz s
+ interval timestamptz -> timestamptz s
- timestamptz interval -> timestamptz s
- timestamp timestamp -> interval
- timestamptz timestamptz -> interval
+ time interval -> time
+ interval time -> time
- time interval -> time
- time time -> interval
+ interval interval -> interval
- interval interval -> interval
* interval float8 -> interval
* float8 interval -> interval
/ interval float8 -> interval
-> json text -> json
-> json int4 -> json
-> jsonb text -> jsonb
-> jsonb int4 -> jsonb
->> json text -> text
->> json int4 -> text
->> jsonb text -> text
->> jsonb int4 -> text
"""

PREFIX_OPERATORS = """
- int2 -> int2
- int4 -> int4
- int8 -> int8
- numeric -> numeric
- float4 -> float4
- float8 -> float8
- interval -> interval
+ int2 -> int2
+ int4 -> int4
+ int8 -> int8
+ numeric -> numeric
+ float4 -> float4
+ float8 -> float8
~ int2 -> int2
~ int4 -> int4
~ int8 -> int8
@ int2 -> int2
@ int4 -> int4
@ int8 -> int8
@ numeric -> numeric
@ float4 -> float4
@ float8 -> float8
|/ float8 -> float8
"""

FUNCTIONS = """
abs int2 -> int2
abs int4 -> int4
abs int8 -> int8
abs numeric -> numeric
abs float4 -> float4
abs float8 -> float8
sign,ceil,ceiling,floor,trunc,round numeric -> numeric
sign,ceil,ceiling,floor,trunc,round float8 -> float8
round,trunc numeric int4 -> numeric
mod int2 int2 -> int2
mod int4 int4 -> int4
mod int8 int8 -> int8
mod numeric numeric -> numeric
div numeric numeric -> numeric
gcd,lcm int4 int4 -> int4
gcd,lcm int8 int8 -> int8
sqrt,exp,ln,log,log10 numeric -> numeric
sqrt,exp,ln,log,log10 float8 -> float8
log numeric numeric -> numeric
power,pow numeric numeric -> numeric
power,pow float8 float8 -> float8
cbrt,sin,cos,tan,asin,acos,atan,sinh,cosh,tanh,degrees,radians,cot float8 -> float8
atan2 float8 float8 -> float8
pi -> float8
random -> float8 v
scale,min_scale numeric -> int4
trim_scale numeric -> numeric
width_bucket float8 float8 float8 int4 -> int4
width_bucket numeric numeric numeric int4 -> int4
length,char_length,character_length text -> int4
length,char_length,character_length bpchar -> int4
length bytea -> int4
octet_length text -> int4
octet_length bpchar -> int4
octet_length bytea -> int4
bit_length text -> int4
upper,lower,initcap text -> text
substring,substr text int4 -> text
substring,substr text int4 int4 -> text
substring,substr bytea int4 int4 -> bytea
substring,substr bytea int4 -> bytea
substring text text -> text
substring text text text -> text
position text text -> int4
strpos text text -> int4
left,right text int4 -> text
lpad,rpad text int4 -> text
lpad,rpad text int4 text -> text
btrim,ltrim,rtrim text -> text
btrim,ltrim,rtrim text text -> text
replace text text text -> text
translate text text text -> text
repeat text int4 -> text
reverse text -> text
split_part text text int4 -> text
starts_with text text -> bool
concat any -> text n s V
concat_ws text any -> text n s V
format text any -> text n s V
format text -> text n s
chr int4 -> text
ascii text -> int4
md5 text -> text
md5 bytea -> text
to_hex int4 -> text
to_hex int8 -> text
overlay text text int4 -> text
overlay text text int4 int4 -> text
quote_ident text -> text
quote_literal text -> text
quote_nullable text -> text n
regexp_replace text text text -> text
regexp_replace text text text text -> text
regexp_match text text -> text[]
regexp_match text text text -> text[]
regexp_split_to_array text text -> text[]
regexp_like text text -> bool
regexp_like text text text -> bool
regexp_count text text -> int4
regexp_substr text text -> text
string_to_array text text -> text[] n
string_to_array text text text -> text[] n
array_to_string text[] text -> text n
array_to_string text[] text text -> text n
array_length anyarray int4 -> int4
array_upper,array_lower anyarray int4 -> int4
cardinality anyarray -> int4
array_position anyarray anyelement -> int4 n
array_append anyarray anyelement -> anyarray n
array_prepend anyelement anyarray -> anyarray n
array_cat anyarray anyarray -> anyarray n
array_remove anyarray anyelement -> anyarray n
encode bytea text -> text
decode text text -> bytea
convert_from bytea text -> text
convert_to text text -> bytea
sha256 bytea -> bytea
gen_random_uuid -> uuid v
to_char timestamp text -> text s
to_char timestamptz text -> text s
to_char interval text -> text s
to_char int4 text -> text s
to_char int8 text -> text s
to_char numeric text -> text s
to_char float8 text -> text s
to_date text text -> date s
to_timestamp text text -> timestamptz s
to_timestamp float8 -> timestamptz
to_number text text -> numeric s
now,transaction_timestamp,statement_timestamp -> timestamptz s
clock_timestamp -> timestamptz v
timeofday -> text v
date_trunc text timestamp -> timestamp
date_trunc text timestamptz -> timestamptz s
date_trunc text interval -> interval
date_trunc text timestamptz text -> timestamptz s
date_part text timestamp -> float8
date_part text timestamptz -> float8 s
date_part text date -> float8
date_part text time -> float8
date_part text interval -> float8
extract text timestamp -> numeric
extract text timestamptz -> numeric s
extract text date -> numeric
extract text time -> numeric
extract text interval -> numeric
date_bin interval timestamp timestamp -> timestamp
date_bin interval timestamptz timestamptz -> timestamptz
age timestamp timestamp -> interval
age timestamptz timestamptz -> interval s
age timestamp -> interval s
age timestamptz -> interval s
justify_days,justify_hours,justify_interval interval -> interval
make_date int4 int4 int4 -> date
make_time int4 int4 float8 -> time
make_timestamp int4 int4 int4 int4 int4 float8 -> timestamp
isfinite date -> bool
isfinite timestamp -> bool
isfinite timestamptz -> bool
isfinite interval -> bool
timezone text timestamp -> timestamptz
timezone text timestamptz -> timestamp
timezone interval timestamp -> timestamptz
timezone interval timestamptz -> timestamp
num_nulls,num_nonnulls any -> int4 n V
version,current_database,current_schema,current_catalog -> name s
pg_backend_pid,inet_server_port -> int4 s
pg_is_in_recovery -> bool v
pg_postmaster_start_time -> timestamptz s
pg_sleep float8 -> void v
current_setting text -> text s
current_setting text bool -> text s
set_config text text bool -> text v n
txid_current -> int8 v
nextval regclass -> int8 v
currval regclass -> int8 v
setval regclass int8 -> int8 v
setval regclass int8 bool -> int8 v
lastval -> int8 v
pg_typeof any oid -> regtype n
json_typeof json -> text
jsonb_typeof jsonb -> text
json_array_length json -> int4
jsonb_array_length jsonb -> int4
to_json anyelement -> json s
to_jsonb anyelement -> jsonb s
jsonb_extract_path_text jsonb text -> text V
json_extract_path_text json text -> text V
pg_column_size any -> int4 s
hashtext text -> int4
"""

CATALOG_FUNCTIONS = """
current_user,session_user,user,current_role -> name s
current_schemas bool -> name[] s
pg_get_userbyid oid -> name s
pg_encoding_to_char int4 -> name s
format_type oid int4 -> text s n
pg_table_is_visible,pg_type_is_visible,pg_function_is_visible,pg_operator_is_visible oid -> bool s
pg_opclass_is_visible,pg_collation_is_visible,pg_conversion_is_visible oid -> bool s
pg_get_expr pg_node_tree oid -> text s
pg_get_expr pg_node_tree oid bool -> text s
pg_get_indexdef oid -> text s
pg_get_indexdef oid int4 bool -> text s
pg_get_constraintdef oid -> text s
pg_get_constraintdef oid bool -> text s
pg_get_viewdef oid -> text s
pg_get_viewdef oid bool -> text s
pg_get_ruledef oid -> text s
pg_get_ruledef oid bool -> text s
pg_get_triggerdef oid -> text s
pg_get_triggerdef oid bool -> text s
pg_get_serial_sequence text text -> text s
pg_get_function_identity_arguments,pg_get_function_result,pg_get_functiondef,pg_get_function_arguments oid -> text s
pg_get_statisticsobjdef_columns oid -> text s
pg_get_partkeydef oid -> text s
pg_get_partition_constraintdef oid -> text s
obj_description oid -> text s
obj_description oid name -> text s
col_description oid int4 -> text s
shobj_description oid name -> text s
has_table_privilege text text -> bool s
has_table_privilege oid text -> bool s
has_table_privilege name text text -> bool s
has_table_privilege name oid text -> bool s
has_column_privilege oid int2 text -> bool s
has_column_privilege text text text -> bool s
has_schema_privilege text text -> bool s
has_schema_privilege oid text -> bool s
has_schema_privilege name text text -> bool s
has_database_privilege text text -> bool s
has_database_privilege oid text -> bool s
has_database_privilege name text text -> bool s
has_function_privilege oid text -> bool s
has_sequence_privilege oid text -> bool s
has_type_privilege oid text -> bool s
has_tablespace_privilege oid text -> bool s
pg_has_role name text -> bool s
pg_has_role oid text -> bool s
pg_relation_size regclass -> int8 v
pg_relation_size regclass text -> int8 v
pg_table_size,pg_total_relation_size,pg_indexes_size regclass -> int8 v
pg_database_size oid -> int8 v
pg_database_size name -> int8 v
pg_size_pretty int8 -> text
pg_size_pretty numeric -> text
pg_relation_is_publishable regclass -> bool s
pg_stat_get_numscans oid -> int8 s
pg_tablespace_location oid -> text s
to_regclass text -> regclass s
to_regtype text -> regtype s
pg_char_to_encoding name -> int4 s
pg_client_encoding -> name s
pg_my_temp_schema -> oid s
pg_is_other_temp_schema oid -> bool s
array_in text -> text[]
"""

SET_RETURNING = """
generate_series int4 int4 -> int4
generate_series int4 int4 int4 -> int4
generate_series int8 int8 -> int8
generate_series int8 int8 int8 -> int8
generate_series numeric numeric -> numeric
generate_series numeric numeric numeric -> numeric
generate_series timestamp timestamp interval -> timestamp
generate_series timestamptz timestamptz interval -> timestamptz s
unnest anyarray -> anyelement
generate_subscripts anyarray int4 -> int4
regexp_split_to_table text text -> text
regexp_matches text text -> text[]
regexp_matches text text text -> text[]
string_to_table text text -> text
pg_partition_ancestors regclass -> regclass s
"""

AGGREGATES = """
count -> int8
count any -> int8
sum int2 -> int8
sum int4 -> int8
sum int8 -> numeric
sum numeric -> numeric
sum float4 -> float4
sum float8 -> float8
sum interval -> interval
avg int2 -> numeric
avg int4 -> numeric
avg int8 -> numeric
avg numeric -> numeric
avg float4 -> float8
avg float8 -> float8
avg interval -> interval
min,max int2 -> int2
min,max int4 -> int4
min,max int8 -> int8
min,max oid -> oid
min,max numeric -> numeric
min,max float4 -> float4
min,max float8 -> float8
min,max text -> text
min,max bpchar -> bpchar
min,max date -> date
min,max time -> time
min,max timestamp -> timestamp
min,max timestamptz -> timestamptz
min,max interval -> interval
bool_and,bool_or,every bool -> bool
bit_and,bit_or,bit_xor int2 -> int2
bit_and,bit_or,bit_xor int4 -> int4
bit_and,bit_or,bit_xor int8 -> int8
string_agg text text -> text n
array_agg anynonarray -> anyarray n
stddev,stddev_samp,stddev_pop,variance,var_samp,var_pop int2 -> numeric
stddev,stddev_samp,stddev_pop,variance,var_samp,var_pop int4 -> numeric
stddev,stddev_samp,stddev_pop,variance,var_samp,var_pop int8 -> numeric
stddev,stddev_samp,stddev_pop,variance,var_samp,var_pop numeric -> numeric
stddev,stddev_samp,stddev_pop,variance,var_samp,var_pop float4 -> float8
stddev,stddev_samp,stddev_pop,variance,var_samp,var_pop float8 -> float8
corr,covar_pop,covar_samp,regr_slope,regr_intercept,regr_r2 float8 float8 -> float8
regr_count float8 float8 -> int8
percentile_cont float8 float8 -> float8 k1
percentile_disc float8 anyelement -> anyelement k1
mode anyelement -> anyelement k0
"""

WINDOW_FUNCTIONS = """
row_number,rank,dense_rank -> int8
percent_rank,cume_dist -> float8
ntile int4 -> int4
lag,lead anyelement -> anyelement
lag,lead anyelement int4 -> anyelement
lag,lead anycompatible int4 anycompatible -> anycompatible
first_value,last_value anyelement -> anyelement
nth_value anyelement int4 -> anyelement
"""
